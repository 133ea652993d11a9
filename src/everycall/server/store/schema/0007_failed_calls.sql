-- A call that failed, and has neither tokens nor a cost, is not an unpriced one. A trace's state counts such calls after
-- the calls that are counted elsewhere (`[19]`), which the states of the first schema do not have.

UPDATE traces SET state = CAST(json_set(
    CAST(state AS TEXT),
    '$[19]', coalesce(CAST(state AS TEXT) ->> '$[19]', 0),
    '$[20]', (
        SELECT count(*) FROM records r JOIN bodies b ON b.record = r.id
        WHERE r.trace = traces.id AND r.failed = 1 AND r.kind IN ('llm', 'embedding', 'reranker')
        AND CAST(b.body AS TEXT) ->> '$.counted_in' IS NULL
        AND CAST(b.body AS TEXT) ->> '$.cost' IS NULL
        AND CAST(b.body AS TEXT) ->> '$.input_tokens' IS NULL
        AND CAST(b.body AS TEXT) ->> '$.output_tokens' IS NULL
        AND CAST(b.body AS TEXT) ->> '$.total_tokens' IS NULL
    )
) AS BLOB) WHERE failed = 1;
