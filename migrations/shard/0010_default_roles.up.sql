-- Nobody becomes an owner by a room's password or by its being public.
UPDATE room SET default_role = 'editor' WHERE default_role = 'owner';
ALTER TABLE room
    DROP CONSTRAINT room_default_role_check,
    ADD CONSTRAINT room_default_role_check CHECK (default_role IN ('viewer', 'editor')) NOT VALID;
ALTER TABLE room VALIDATE CONSTRAINT room_default_role_check;
