ALTER TABLE slot_owner DROP COLUMN changed_at;
