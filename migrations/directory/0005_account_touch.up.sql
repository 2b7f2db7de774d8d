-- Every change of an account sets its updated_at, as on room.
CREATE FUNCTION account_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER account_updated_at BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION account_touch();
