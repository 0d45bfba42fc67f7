-- See on what ground mailroom stands: the server, what is set for this session, and what its tables keep and show.
--
-- Binds: settings (names), tables (names, found by the search_path).
--
-- Returns one row. Of a setting that this server does not know nothing is said. Reads the catalogs alone.
SELECT pg_is_in_recovery() AS in_recovery,
       current_setting('server_encoding') AS encoding,
       coalesce(array_agg(name ORDER BY name), '{}') AS names,
       coalesce(array_agg(setting ORDER BY name), '{}') AS values,
       coalesce(array_agg(source ORDER BY name), '{}') AS sources,
       ARRAY(SELECT relation FROM unnest(CAST(:tables AS text[])) AS relation
              WHERE row_security_active(CAST(to_regclass(quote_ident(relation)) AS oid)) ORDER BY 1) AS hidden,
       ARRAY(SELECT relation FROM unnest(CAST(:tables AS text[])) AS relation
               JOIN pg_class ON pg_class.oid = to_regclass(quote_ident(relation))
              WHERE relpersistence = 'u' ORDER BY 1) AS unlogged
  FROM pg_settings
 WHERE name = ANY (CAST(:settings AS text[]))
