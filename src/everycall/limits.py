"""Every bound, with its reason: sizes of queues, bodies and files, numbers of rows, and times.

Other modules import the constants. `LIMITS` has the same values by name, for the status page and for tests.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LIMITS", "Limit"]

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound: its name, its value in `unit`, and the reason for it."""

    name: str
    value: float
    unit: str
    reason: str


LIMITS: dict[str, Limit] = {}


def _limit(name: str, value: int, unit: str, reason: str) -> int:
    LIMITS[name] = Limit(name, value, unit, reason)
    return value


def _time(name: str, value: float, reason: str) -> float:
    LIMITS[name] = Limit(name, value, "s", reason)
    return value


# --- what is captured of a call ---
FIELD_BYTES_MAX = _limit(
    "FIELD_BYTES_MAX", 1 * MIB, "bytes", "per field of a record; a longer field keeps its head and tail and is marked"
)
RECORD_BYTES_MAX = _limit(
    "RECORD_BYTES_MAX",
    4 * MIB,
    "bytes",
    "per line of the spool and of a batch; more than all content fields at their limit",
)
CAPTURE_NODES_MAX = _limit(
    "CAPTURE_NODES_MAX", 20_000, "values", "visited in one argument; limits the delay of a call to tens of milliseconds"
)
CAPTURE_DEPTH_MAX = _limit("CAPTURE_DEPTH_MAX", 64, "levels", "deeper values are replaced with a marker")
CAPTURE_TEXT_MAX = _limit(
    "CAPTURE_TEXT_MAX", 256 * KIB, "characters", "encoded without a size check: at 4 bytes each they fit into a field"
)
CAPTURE_INT_BITS_MAX = _limit(
    "CAPTURE_INT_BITS_MAX", 4_096, "bits", "of integers written as digits, because the conversion takes quadratic time"
)
CAPTURE_ARRAY_MAX = _limit("CAPTURE_ARRAY_MAX", 1_000, "items", "of a numpy array shown in full; of others, the shape")
CAPTURE_ROWS_MAX = _limit("CAPTURE_ROWS_MAX", 10, "rows", "of a data frame; enough to see what it holds")
CAPTURE_COLUMNS_MAX = _limit("CAPTURE_COLUMNS_MAX", 50, "columns", "of a data frame, for the same reason")
CAPTURE_OBJECTS_MAX = _limit(
    "CAPTURE_OBJECTS_MAX", 200, "objects", "of plain classes in one argument; clients and requests reach thousands"
)
CAPTURE_OBJECT_LEVELS_MAX = _limit(
    "CAPTURE_OBJECT_LEVELS_MAX", 4, "levels", "of plain objects in each other; deeper ones are shown by their class"
)
CAPTURE_SHAPES_MAX = _limit("CAPTURE_SHAPES_MAX", 4_096, "classes", "whose declared fields are cached")
ERRORS_WITHHELD_MAX = _limit(
    "ERRORS_WITHHELD_MAX",
    32,
    "errors",
    "of omitted calls below that a call remembers, and of a chain of causes that is searched",
)
MASK_RUNS_MAX = _limit(
    "MASK_RUNS_MAX",
    500,
    "runs",
    "of letters and digits tested for a key; longer texts are searched for the keys' prefixes",
)
MASK_NAMES_MAX = _limit("MASK_NAMES_MAX", 4_096, "names", "for which it is cached whether they name a secret")
STREAM_CHUNKS_MAX = _limit("STREAM_CHUNKS_MAX", 10_000, "chunks", "kept of a generator")
NAME_CHARS_MAX = _limit("NAME_CHARS_MAX", 1_024, "characters", "names are labels; longer text belongs in inputs")
ID_CHARS_MAX = _limit("ID_CHARS_MAX", 512, "characters", "ids are indexed")
TAGS_MAX = _limit("TAGS_MAX", 128, "tags", "each is a row of an index")
EVENTS_MAX = _limit("EVENTS_MAX", 128, "events", "per call, OpenTelemetry's default")
ATTRIBUTES_MAX = _limit(
    "ATTRIBUTES_MAX", 1_024, "attributes", "per call; OpenTelemetry's default of 128 is too few for long chats"
)
ERROR_CHARS_MAX = _limit("ERROR_CHARS_MAX", 32 * KIB, "characters", "of an error message or traceback")

# --- the spool and the sender ---
SEGMENT_BYTES = _limit(
    "SEGMENT_BYTES",
    2 * MIB,
    "bytes",
    "the unit in which the spool is rotated, dropped and adopted; a longer line gets its own file",
)
SPOOL_BYTES_MAX = _limit(
    "SPOOL_BYTES_MAX",
    1024 * MIB,
    "bytes",
    "per process, and for all ended processes of a spool directory; the oldest file is deleted first and counted",
)
SPOOL_FILES_MAX = _limit(
    "SPOOL_FILES_MAX", 100_000, "files", "of ended processes in a spool directory, because the directory is listed"
)
MEMORY_BYTES_MAX = _limit(
    "MEMORY_BYTES_MAX", 16 * MIB, "bytes", "kept in memory while the spool cannot be written; more is counted as lost"
)
REFUSED_BYTES_MAX = _limit("REFUSED_BYTES_MAX", 64 * MIB, "bytes", "of refused records kept for inspection, per folder")
SMALL_RECORD_BYTES = _limit(
    "SMALL_RECORD_BYTES",
    16 * KIB,
    "bytes",
    "a record is not cut below this size when an endpoint says that it is too large",
)
BATCH_BYTES_MAX = _limit("BATCH_BYTES_MAX", 1 * MIB, "bytes", "of records in one request, before compression")
BATCH_RECORDS_MAX = _limit("BATCH_RECORDS_MAX", 1_000, "records", "in one request")
ANSWER_BYTES_MAX = _limit(
    "ANSWER_BYTES_MAX", 64 * KIB, "bytes", "read of any response, so that an endless one costs nothing"
)
BATCH_DELAY_S = _time("BATCH_DELAY_S", 0.25, "before a batch is sent, so that more records join it")
IDLE_POLL_S = _time("IDLE_POLL_S", 1.0, "between checks of an idle sender")
SYNC_INTERVAL_S = _time("SYNC_INTERVAL_S", 1.0, "between two fdatasync calls for undelivered records")
BACKOFF_FIRST_S = _time(
    "BACKOFF_FIRST_S", 0.25, "first wait after the endpoint was unreachable; doubled each time, with jitter"
)
BACKOFF_MAX_S = _time("BACKOFF_MAX_S", 5.0, "longest wait between attempts; the end of an outage is noticed within it")
RETRY_AFTER_MAX_S = _time("RETRY_AFTER_MAX_S", 300.0, "longest Retry-After that is honoured")
CONNECT_TIMEOUT_S = _time("CONNECT_TIMEOUT_S", 2.0, "for a connection to the endpoint")
REPORT_TIMEOUT_S = _time("REPORT_TIMEOUT_S", 1.0, "to report the balance after the last batch, also at exit")
ANSWER_TIMEOUT_S = _time("ANSWER_TIMEOUT_S", 10.0, "to wait for a batch's receipt")
EXIT_TIMEOUT_S = _time("EXIT_TIMEOUT_S", 2.0, "by which process exit is delayed at most")
FORK_WAIT_S = _time("FORK_WAIT_S", 0.5, "for which a fork waits for a name look-up of the sender, which may hang")
FORK_WAIT_MAX_S = _time(
    "FORK_WAIT_MAX_S", 10.0, "for which a fork waits for an import or a TLS operation of the sender, which are short"
)
PROOF_AGE_S = _time(
    "PROOF_AGE_S", 5.0, "for which the client accepts a server's proof; the sender asks on each connection"
)
ADOPT_INTERVAL_S = _time(
    "ADOPT_INTERVAL_S", 1.0, "between checks for files of ended processes, such as a pool's workers"
)
ADOPT_FILES_MAX = _limit(
    "ADOPT_FILES_MAX",
    64,
    "files",
    "of ended processes that are open at once, and sent in one request if they are small",
)
SPOOL_CHECK_S = _time("SPOOL_CHECK_S", 0.25, "between checks whether the spool's files were deleted or cut")
BOUND_INTERVAL_S = _time("BOUND_INTERVAL_S", 10.0, "between checks of the size of the whole spool directory")
OUTAGE_WARN_S = _time("OUTAGE_WARN_S", 5.0, "after which an outage is logged; the exit line reports shorter ones")
WARN_INTERVAL_S = _time("WARN_INTERVAL_S", 60.0, "between two warnings of the same kind")

# --- integrations ---
RUNS_MAX = _limit(
    "RUNS_MAX", 10_000, "runs", "open at once in one LangChain handler; the oldest is closed as abandoned"
)
RUN_FRAMES_MAX = _limit(
    "RUN_FRAMES_MAX", 500, "frames", "searched for the LangChain model whose code makes a call; 50 ns each"
)
RUN_AGE_MAX_S = _time("RUN_AGE_MAX_S", 3_600.0, "after which a run without an end is closed as abandoned")
MEDIA_HASH_BYTES_MAX = _limit(
    "MEDIA_HASH_BYTES_MAX",
    8 * MIB,
    "bytes",
    "of an image or recording that are hashed; for larger ones only the size is kept",
)

# --- between processes ---
BAGGAGE_SENT_BYTES = _limit(
    "BAGGAGE_SENT_BYTES", 8 * KIB, "bytes", "of a baggage header that is sent; W3C requires every reader to accept this"
)
BAGGAGE_READ_CHARS = _limit(
    "BAGGAGE_READ_CHARS", 64 * KIB, "characters", "read of a baggage header; more than servers accept"
)
TRACESTATE_CHARS = _limit(
    "TRACESTATE_CHARS", 512, "characters", "of a tracestate that is passed on, the minimum of W3C Trace Context"
)

# --- the server ---
HEAD_BYTES_MAX = _limit("HEAD_BYTES_MAX", 64 * KIB, "bytes", "of a request line and headers that arrive in pieces")
HEAD_TIMEOUT_S = _time(
    "HEAD_TIMEOUT_S", 20.0, "for the head of a request, from the start of the connection or its own first byte"
)
UNREAD_TIMEOUT_S = _time(
    "UNREAD_TIMEOUT_S", 5.0, "to go on reading a body that is not needed, after the response was sent"
)
KEEP_ALIVE_S = _time(
    "KEEP_ALIVE_S",
    75,
    "an idle connection is kept; longer than clients and proxies keep theirs, which so never send to one being closed",
)
CONNECTIONS_MAX = _limit(
    "CONNECTIONS_MAX", 4_096, "connections", "open at once; fewer if 3/4 of the file descriptors are fewer"
)
DESCRIPTORS_WANTED = _limit(
    "DESCRIPTORS_WANTED", 8_192, "descriptors", "requested from the system at start, enough for connections and files"
)
BODY_BYTES_MAX = _limit(
    "BODY_BYTES_MAX", 20 * MIB, "bytes", "of a request after decompression, as in the OTel Collector"
)
BODY_WIRE_BYTES_MAX = _limit("BODY_WIRE_BYTES_MAX", 20 * MIB, "bytes", "of a request as sent")
BODY_RECORDS_MAX = _limit("BODY_RECORDS_MAX", 20_000, "records", "in one request")
BODY_TIMEOUT_S = _time("BODY_TIMEOUT_S", 30.0, "to receive a whole body, so that slow senders do not block others")
BODIES_BYTES_MAX = _limit(
    "BODIES_BYTES_MAX",
    64 * MIB,
    "bytes",
    "of request bodies in memory at once, and as much again decompressed; then 503 or a wait",
)
GZIP_MEMBERS_MAX = _limit(
    "GZIP_MEMBERS_MAX", 64, "members", "or zstd frames in one body; each costs work, and few senders need more than one"
)
ZSTD_WINDOW_MAX = _limit("ZSTD_WINDOW_MAX", 8 * MIB, "bytes", "of memory that a zstd frame may require, from RFC 9659")
NESTING_MAX = _limit("NESTING_MAX", 200, "levels", "of JSON in one record, because its readers are recursive")
BALANCE_BYTES_MAX = _limit(
    "BALANCE_BYTES_MAX", 4 * KIB, "bytes", "of a client's balance header; larger ones are ignored"
)
SMALL_BODY_BYTES_MAX = _limit("SMALL_BODY_BYTES_MAX", 64 * KIB, "bytes", "of a form or a settings request")
WRONG_KEY_ADDRESSES_MAX = _limit(
    "WRONG_KEY_ADDRESSES_MAX", 10_000, "addresses", "for which wrong keys are counted at once"
)
LOGIN_TOKENS_MAX = _limit("LOGIN_TOKENS_MAX", 100, "tokens", "printed and not yet used; the oldest is removed first")
SHUTDOWN_TIMEOUT_S = _time("SHUTDOWN_TIMEOUT_S", 3.0, "for requests in progress after SIGTERM; then they are cancelled")
REFUSALS_MAX = _limit("REFUSALS_MAX", 1_000, "refusals", "listed in one response; more are only counted")
PAGE_ROWS = _limit("PAGE_ROWS", 50, "rows", "of a list by default")
PAGE_ROWS_MAX = _limit("PAGE_ROWS_MAX", 1_000, "rows", "of a list at most")
TRACE_RECORDS_MAX = _limit("TRACE_RECORDS_MAX", 10_000, "records", "of one trace in one response; a cursor continues")
TREE_ROWS = _limit("TREE_ROWS", 500, "rows", "of a trace on one page; a link leads to the next")
VIEW_VALUES_MAX = _limit(
    "VIEW_VALUES_MAX", 2_000, "values", "of one JSON field on a page; the JSON at the same path has all"
)
COPY_BYTES_MAX = _limit("COPY_BYTES_MAX", 64 * KIB, "bytes", "of a record that its page shows as text to copy")
VIEW_TEXT_CHARS = _limit("VIEW_TEXT_CHARS", 1_000, "characters", "of a text shown before 'show all'")
TEMPLATE_CHARS_MAX = _limit("TEMPLATE_CHARS_MAX", 256 * KIB, "characters", "of one prompt template")
DEPLOYMENT_BYTES_MAX = _limit(
    "DEPLOYMENT_BYTES_MAX", 1 * MIB, "bytes", "of one version of a deployment, which is read for each completion"
)
DEPLOYMENT_USES_MAX = _limit(
    "DEPLOYMENT_USES_MAX",
    1_000,
    "records",
    "of a deployment counted for its figures on the page; if there are more, the latest",
)
DEPLOYMENT_COSTS_MAX = _limit(
    "DEPLOYMENT_COSTS_MAX", 5_000, "records", "read for the costs of all deployments on a page, divided among them"
)
DEPLOY_FILES_MAX = _limit("DEPLOY_FILES_MAX", 1_000, "files", "of prompts deployed by one command")
DEPLOY_VALUES_MAX = _limit(
    "DEPLOY_VALUES_MAX", 20_000, "values", "in one such file; aliases count each time they are used"
)
FORM_BYTES_MAX = _limit("FORM_BYTES_MAX", 4 * MIB, "bytes", "of a page's form with templates, as a browser sends it")
FORM_VARIABLES_MAX = _limit(
    "FORM_VARIABLES_MAX", 100, "fields", "for variables in a page's form; the API has no such limit"
)
DIFF_LINES_MAX = _limit(
    "DIFF_LINES_MAX", 1_000, "lines", "changed on each side that are compared line by line, which takes quadratic time"
)
DIFF_ROWS_MAX = _limit("DIFF_ROWS_MAX", 5_000, "lines", "of two versions on one page; the API returns all")
ENDED_SESSIONS_MAX = _limit(
    "ENDED_SESSIONS_MAX", 10_000, "sessions", "ended before they expired; the oldest is removed first"
)
CACHE_BYTES_MAX = _limit(
    "CACHE_BYTES_MAX", 256 * MIB, "bytes", "of stored responses per project; the least recently used are deleted first"
)
CACHE_AGE_MAX_S = _time("CACHE_AGE_MAX_S", 7 * 86_400.0, "for which a stored response is used")
COMMIT_DELAY_S = _time("COMMIT_DELAY_S", 0.004, "for which a commit waits for others to join its sync")
COMMIT_DELAY_SINGLE_S = _time(
    "COMMIT_DELAY_SINGLE_S", 0.001, "the same if only single records wait, as for completions"
)
COMMIT_RECORDS_MAX = _limit("COMMIT_RECORDS_MAX", 5_000, "records", "in one transaction")
WRITE_QUEUE_MAX = _limit(
    "WRITE_QUEUE_MAX", 64, "batches", "waiting for the writer; then 503, and clients keep their records"
)
PROVIDER_TIMEOUT_S = _time("PROVIDER_TIMEOUT_S", 180.0, "for a provider's response, as in Parea's client")
PROVIDER_RETRIES = _limit("PROVIDER_RETRIES", 2, "retries", "of a provider call that failed with a transient error")
PROVIDER_CONNECTIONS_MAX = _limit(
    "PROVIDER_CONNECTIONS_MAX", 1_000, "connections", "to one provider at once; further requests wait"
)
PROVIDER_BODY_BYTES_MAX = _limit(
    "PROVIDER_BODY_BYTES_MAX", 64 * MIB, "bytes", "of a provider's whole response after decompression; media are base64"
)
REFUSALS_LEARNED_MAX = _limit(
    "REFUSALS_LEARNED_MAX", 1_024, "refusals", "of parameters by models that a provider's client remembers"
)
FALLBACKS_MAX = _limit("FALLBACKS_MAX", 8, "fallbacks", "of one model, each with its own attempts")
FALLBACK_WAIT_MAX_S = _time(
    "FALLBACK_WAIT_MAX_S", 5.0, "longest Retry-After that is waited for while there is another fallback"
)
REQUESTS_PER_MINUTE_MAX = _limit(
    "REQUESTS_PER_MINUTE_MAX",
    60_000,
    "requests",
    "highest rate limit of a key; the time of each request is kept for a minute",
)
PROMPT_TOKEN_CHARS = _limit(
    "PROMPT_TOKEN_CHARS", 3, "characters", "of a prompt per token in estimates; most tokens have four"
)
PART_TOKENS = _limit("PART_TOKENS", 1_500, "tokens", "estimated for an image or another part that is not text")
SPENDING_DAYS_MAX = _limit("SPENDING_DAYS_MAX", 400, "days", "for which the amounts that a key spent are kept")
MISSING_VARIABLES_MAX = _limit(
    "MISSING_VARIABLES_MAX", 100, "names", "of variables without a value that a completion's record lists"
)
PROMPT_CHARS_MAX = _limit(
    "PROMPT_CHARS_MAX",
    8 * MIB,
    "characters",
    "of all filled messages, so that a repeated variable does not fill gigabytes",
)
ANSWER_TOKENS_DEFAULT = _limit(
    "ANSWER_TOKENS_DEFAULT",
    4_096,
    "tokens",
    "requested from Anthropic, which requires a limit, if max_length is not set",
)
ANSWERS_KEPT_MAX = _limit(
    "ANSWERS_KEPT_MAX", 256, "answers", "in memory for a repeated inference_id whose record does not have the response"
)
ANSWERS_KEPT_BYTES_MAX = _limit(
    "ANSWERS_KEPT_BYTES_MAX", 32 * MIB, "bytes", "of these responses; the oldest is removed first"
)
SCORED_CHARS_MAX = _limit(
    "SCORED_CHARS_MAX",
    20_000,
    "characters",
    "of an answer compared with its target: about 10 ms; the time is quadratic",
)
STREAM_EVENT_BYTES_MAX = _limit("STREAM_EVENT_BYTES_MAX", 4 * MIB, "bytes", "of one event of a provider's stream")
STREAM_CHARS_MAX = _limit(
    "STREAM_CHARS_MAX", 8 * MIB, "characters", "of one streamed response, which is kept until its record is stored"
)
STREAM_SILENCE_S = _time(
    "STREAM_SILENCE_S", 12.0, "without a text after which a stream sends a comment; many proxies wait 30 or 60 s"
)
STREAM_TIME_MAX_S = _time("STREAM_TIME_MAX_S", 1_800.0, "for one streamed response, however slow")
UNSTORED_RECORDS_MAX = _limit(
    "UNSTORED_RECORDS_MAX", 64, "records", "of completions with a response, kept in memory until the store accepts them"
)
COMMIT_PATIENCE_S = _time(
    "COMMIT_PATIENCE_S", 5.0, "for which a paid response waits for a busy store before the caller gets 503"
)
GATEWAY_CLOSE_S = _time("GATEWAY_CLOSE_S", 2.0, "for completions in progress when the server stops")
COMPLETION_TRIES_MAX = _limit(
    "COMPLETION_TRIES_MAX", 3, "tries", "of one completion by the client, all with the same inference_id"
)
CUSTOM_PRICES_MAX = _limit(
    "CUSTOM_PRICES_MAX", 2_000, "prices", "in a user's file; each new model is compared with all of them"
)
PRICED_MODELS_MAX = _limit("PRICED_MODELS_MAX", 4_096, "models", "whose price is cached")
LOGIN_TOKEN_AGE_S = _time("LOGIN_TOKEN_AGE_S", 3_600.0, "for which a printed URL can log in, once")
SESSION_AGE_S = _time("SESSION_AGE_S", 30 * 86_400.0, "for which a browser stays logged in")
WRONG_KEYS_MAX = _limit("WRONG_KEYS_MAX", 20, "tries", "per address and minute before 429")
QUERY_TIMEOUT_S = _time(
    "QUERY_TIMEOUT_S", 5.0, "for one read of the store; then it is interrupted and the response is 503"
)
SLOW_READ_S = _time("SLOW_READ_S", 0.5, "from which a read of the store is listed on the status page")
SLOW_READS_MAX = _limit("SLOW_READS_MAX", 20, "reads", "listed on the status page: the latest slow ones")
CLIENTS_MAX = _limit(
    "CLIENTS_MAX", 10_000, "processes", "whose balance sheets are kept; the least recent is removed first"
)
PROBE_INTERVAL_S = _time(
    "PROBE_INTERVAL_S", 5.0, "between two attempts to write to a failed store while no records arrive"
)
STORE_READERS = _limit(
    "STORE_READERS", 4, "connections", "that read the store at once, so that a slow read leaves three free"
)
PAGE_BYTES_MAX = _limit("PAGE_BYTES_MAX", 64 * MIB, "bytes", "of records in one page of a read; a cursor continues")
TREE_DEPTH_MAX = _limit(
    "TREE_DEPTH_MAX", 60, "levels", "of nested logs in one response, because Parea's clients are recursive"
)
FEEDBACK_MAX = _limit("FEEDBACK_MAX", 100, "feedbacks", "kept per record; the oldest is removed first")
EXPERIMENTS_MAX = _limit("EXPERIMENTS_MAX", 1_000, "experiments", "listed in one response, the latest")
EXPERIMENT_RECORDS_MAX = _limit(
    "EXPERIMENT_RECORDS_MAX", 100_000, "records", "read for the statistics of one experiment"
)
DATASET_CASES_MAX = _limit("DATASET_CASES_MAX", 50_000, "cases", "of one dataset, which is read as a whole")
DATASET_BYTES_MAX = _limit("DATASET_BYTES_MAX", 64 * MIB, "bytes", "of one dataset's cases, for the same reason")
PATCHES_MAX = _limit("PATCHES_MAX", 100_000, "patches", "of a project that wait for their record; more are refused")
OTLP_ATTRIBUTES_MAX = _limit(
    "OTLP_ATTRIBUTES_MAX", 4_096, "attributes", "read of one span or event; the number of dropped ones is kept"
)
OTLP_PIECE_SPANS = _limit("OTLP_PIECE_SPANS", 512, "spans", "of a large request that are translated and stored at once")
OTLP_RECEIVING_BYTES_MAX = _limit(
    "OTLP_RECEIVING_BYTES_MAX", 32 * MIB, "bytes", "of large bodies that are received at once; others wait unread"
)
OTLP_WAIT_S = _time("OTLP_WAIT_S", 5.0, "for a turn to send a large body; OpenTelemetry's exporters give up after 10 s")
OTLP_READING_BYTES_MAX = _limit(
    "OTLP_READING_BYTES_MAX", 16 * MIB, "bytes", "of requests that are read at once, or one request; others wait"
)
OTLP_NESTING_MAX = _limit(
    "OTLP_NESTING_MAX", 64, "levels", "of one attribute's value; JSON in a string that is deeper stays a string"
)
OTLP_REASONS_MAX = _limit("OTLP_REASONS_MAX", 8, "reasons", "listed for rejected spans of a request")
OTLP_MESSAGE_CHARS_MAX = _limit("OTLP_MESSAGE_CHARS_MAX", 2_000, "characters", "of the message of a partial success")
SPAN_FAMILY_MAX = _limit(
    "SPAN_FAMILY_MAX", 20_000, "records", "below a span that it changes when it arrives after them"
)
SPAN_FAMILY_PAGE = _limit("SPAN_FAMILY_PAGE", 500, "records", "of these that are in memory at once")
SPAN_JOINS_AGE_MAX_S = _time(
    "SPAN_JOINS_AGE_MAX_S", 86_400.0, "for which a span waits for its other half, and a flag for the spans below it"
)
SPAN_HALVES_NANOS_MAX = _limit(
    "SPAN_HALVES_NANOS_MAX", 1_000_000_000, "ns", "between the halves of one stream; the same prompt may be sent again"
)
SAME_ANSWER_MAX = _limit(
    "SAME_ANSWER_MAX", 16, "records", "of one trace with the same response id; if there are more, the id is not unique"
)
TRACE_MODELS_MAX = _limit("TRACE_MODELS_MAX", 128, "models", "counted separately in one trace's summary")
CACHE_USES_MAX = _limit("CACHE_USES_MAX", 10_000, "uses", "of stored responses noted in memory between two evictions")
SCRUB_WAIT_S = _time(
    "SCRUB_WAIT_S", 0.25, "for which the writer waits for readers, to empty the write-ahead log of omitted content"
)
WAL_BYTES_MAX = _limit("WAL_BYTES_MAX", 64 * MIB, "bytes", "of the write-ahead log before a checkpoint")
WRITER_CACHE_BYTES = _limit("WRITER_CACHE_BYTES", 64 * MIB, "bytes", "of the database's pages cached by its writer")
READER_CACHE_BYTES = _limit("READER_CACHE_BYTES", 8 * MIB, "bytes", "of the database's pages cached by each reader")
