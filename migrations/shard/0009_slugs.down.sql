DROP INDEX room_by_slug;
