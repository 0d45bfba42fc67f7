-- Why addresses are not mailed, and since when: of each address a row, and nothing of the address itself.
CREATE OR REPLACE VIEW mailroom.suppressed_addresses AS
SELECT reason, type, subtype,
       CASE reason WHEN 'added' THEN added_at WHEN 'bounce' THEN bounced_at WHEN 'soft_bounces' THEN soft_at
                   ELSE complained_at END AS since
  FROM suppressions
 WHERE reason IS NOT NULL;
