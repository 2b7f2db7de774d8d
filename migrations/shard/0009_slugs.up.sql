-- While the directory is away, the shards are asked which room has a slug.
CREATE INDEX room_by_slug ON room (slug);
