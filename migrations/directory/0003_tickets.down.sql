DROP TABLE spent_ticket;
