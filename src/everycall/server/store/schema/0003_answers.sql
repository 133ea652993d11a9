-- An answer that two libraries recorded, one around the other, is counted once: records of one trace are found by the
-- provider's id of the answer (`gen_ai.response.id`).

ALTER TABLE records ADD COLUMN answer TEXT;
CREATE INDEX records_answer ON records (trace, answer) WHERE answer IS NOT NULL;
