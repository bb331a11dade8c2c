-- Begin and end of a transaction. In a file of their own: sqlfluff cannot parse a BEGIN with modes.

-- name: begin
-- READ COMMITTED and READ WRITE by name, whatever the role's defaults: a statement after the lock
-- must see what was committed before it. A standby refuses READ WRITE: feature_not_supported.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;

-- name: begin_read_only
BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;

-- name: commit
COMMIT;

-- name: rollback
ROLLBACK;
