DROP TABLE shard, slug, refresh_token, account;
