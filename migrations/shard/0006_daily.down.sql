DROP TABLE room_daily_user;
DROP TABLE room_counted;
DROP TABLE room_daily_visits;
DROP TABLE room_daily;
