DROP TABLE slot_move;
