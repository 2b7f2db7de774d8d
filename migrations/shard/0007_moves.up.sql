-- Slots move between shards. Since when a slot is what it is here, so that what
-- is left of one that went is deleted a while later.
ALTER TABLE slot_owner ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
