-- The healthy share of the time that was seen, and the error budget of the period. Unseen time uses
-- nothing of the budget, but the objective counts as met only if it is met whatever happened then.
-- Shares are rounded down, so that only the whole is 100 %.
, sums AS (
    SELECT
        s.service,
        date_part('epoch', a.until - a.since) AS period_s,
        coalesce(sum(k.seconds), 0) AS seen_s,
        coalesce(sum(k.seconds) FILTER (WHERE k.state = 'healthy'), 0) AS healthy_s,
        coalesce(sum(k.seconds) FILTER (WHERE k.state = 'degraded'), 0) AS degraded_s,
        coalesce(sum(k.seconds) FILTER (WHERE k.state = 'down'), 0) AS down_s,
        coalesce(sum(k.seconds) FILTER (WHERE k.state = 'unknown'), 0) AS unknown_s
    FROM unnest(ARRAY[$service]::text[]) AS s (service)
    CROSS JOIN asked AS a
    LEFT JOIN (
        SELECT service, state, date_part('epoch', upper(during) - lower(during)) AS seconds
        FROM known
    ) AS k ON k.service = s.service
    GROUP BY s.service, a.since, a.until
),
budgets AS (
    SELECT
        *,
        greatest(0, period_s - seen_s) AS unseen_s,
        (100 - $slo::float8) / 100 * period_s AS budget_s,
        (100 - $slo::float8) / 100 * period_s - (seen_s - healthy_s) AS left_s
    FROM sums
)
SELECT
    service AS "Service",
    CASE
        WHEN seen_s <= 0 THEN 'unknown'
        WHEN left_s < 0 THEN 'missed'
        WHEN left_s < unseen_s THEN 'unknown'
        ELSE 'met'
    END AS "Objective",
    floor(healthy_s / nullif(seen_s, 0) * 1e5 + 1e-6) / 1e5 AS "Availability",
    floor(seen_s / nullif(period_s, 0) * 1e5 + 1e-6) / 1e5 AS "Seen",
    budget_s AS "Budget",
    CASE WHEN seen_s > 0 THEN left_s END AS "Budget left",
    CASE WHEN seen_s > 0 THEN left_s / nullif(budget_s, 0) END AS "Budget left, share",
    degraded_s AS "Degraded",
    down_s AS "Down",
    unknown_s AS "Unknown",
    unseen_s AS "Unseen"
FROM budgets
ORDER BY left_s / nullif(budget_s, 0) NULLS FIRST, service
