-- Counts a day (UTC) and room. A job makes them from the log, once an event, so
-- they outlast the events; visits are counted as they come.

CREATE TABLE room_daily (
    room_id bigint NOT NULL,
    day     date   NOT NULL,
    events  bigint NOT NULL,
    -- Different ones.
    users   bigint NOT NULL,
    PRIMARY KEY (room_id, day)
);

CREATE TABLE room_daily_visits (
    room_id bigint NOT NULL,
    day     date   NOT NULL,
    visits  bigint NOT NULL,
    PRIMARY KEY (room_id, day)
);

-- How far a room's log has been counted. users_since: the first day that still
-- has rows of room_daily_user.
CREATE TABLE room_counted (
    room_id     bigint PRIMARY KEY,
    seq         bigint NOT NULL DEFAULT 0 CHECK (seq >= 0),
    users_since date
);

-- Who was counted already, until the day is over. Not who it is, only whether it
-- is the same: a digest that differs from room to room.
CREATE TABLE room_daily_user (
    room_id bigint NOT NULL,
    day     date   NOT NULL,
    digest  bigint NOT NULL,
    PRIMARY KEY (room_id, day, digest)
);
