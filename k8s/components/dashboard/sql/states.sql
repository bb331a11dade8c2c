-- When each service changed its state. Each time in which nobody looked is a state of its own.
SELECT lower(p.during) AS time, p.service, p.state
FROM (
    SELECT k.service, k.state, unnest(range_agg(k.during)) AS during
    FROM known AS k
    GROUP BY k.service, k.state
    UNION ALL
    SELECT
        s.service, 'unseen' AS state,
        unnest(
            tstzmultirange(tstzrange(a.since, $__timeTo()::timestamptz))
            - coalesce(range_agg(k.during), '{}'::tstzmultirange)
        ) AS during
    FROM unnest(ARRAY[$service]::text[]) AS s (service)
    CROSS JOIN asked AS a
    LEFT JOIN known AS k ON k.service = s.service
    GROUP BY s.service, a.since
) AS p
ORDER BY 1, 2
