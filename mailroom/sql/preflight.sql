-- See on what ground mailroom stands: the server, what is set for this session, and what its tables keep and show.
--
-- Arguments: settings (names), relations (names of tables of this schema).
--
-- Returns one row. `hidden` has the tables of which the owner of these functions may not see every row. `unlogged` has
-- those tables, parts of them, and sequences of their ids that a crash of the server empties. Of a setting that this
-- server does not know, nothing is said.
--
-- Locks: nothing. It reads only the catalogs.
CREATE OR REPLACE FUNCTION mailroom.preflight(
    settings text[], relations text[]
)
    RETURNS TABLE (
        in_recovery boolean, encoding text, names text[], given text[], sources text[], hidden text[],
        unlogged text[]
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = mailroom, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
    SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT pg_is_in_recovery() AS in_recovery,
           current_setting('server_encoding') AS encoding,
           coalesce(array_agg(name ORDER BY name), '{}') AS names,
           coalesce(array_agg(setting ORDER BY name), '{}') AS given,
           coalesce(array_agg(source ORDER BY name), '{}') AS sources,
           ARRAY(SELECT relation FROM unnest(preflight.relations) AS relation
                  WHERE row_security_active(CAST(to_regclass(quote_ident(relation)) AS oid)) ORDER BY 1) AS hidden,
           ARRAY(SELECT CAST(CAST(part.id AS regclass) AS text)
                   FROM unnest(preflight.relations) AS relation
                  CROSS JOIN LATERAL (SELECT to_regclass(quote_ident(relation)) AS id) AS home
                  CROSS JOIN LATERAL (
                        SELECT home.id
                         UNION
                        SELECT relid FROM pg_partition_tree(home.id)
                         UNION
                        SELECT objid FROM pg_depend
                         WHERE refclassid = CAST('pg_class' AS regclass) AND refobjid = home.id AND refobjsubid > 0
                           AND classid = CAST('pg_class' AS regclass) AND deptype IN ('a', 'i')) AS part
                   JOIN pg_class ON pg_class.oid = part.id
                  WHERE relpersistence = 'u' AND relkind <> 'i' ORDER BY 1) AS unlogged
      FROM pg_settings
     WHERE name = ANY (preflight.settings);
END $$;
