-- Whose streams go on: who connects anew is told which are his.
ALTER TABLE streams ADD COLUMN account TEXT;
ALTER TABLE streams ADD COLUMN model TEXT;
ALTER TABLE streams ADD COLUMN began_ms BIGINT;
