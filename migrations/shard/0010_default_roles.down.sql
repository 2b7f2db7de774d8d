ALTER TABLE room
    DROP CONSTRAINT room_default_role_check,
    ADD CONSTRAINT room_default_role_check CHECK (default_role IN ('viewer', 'editor', 'owner'));
