DROP TRIGGER account_updated_at ON account;
DROP FUNCTION account_touch();
