"""Every bound in one table: queues, bodies, files, row counts and times, each with its reason.

Other modules import the constants; `LIMITS` is the same table for pages, documents and tests to walk.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LIMITS", "Limit"]

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound: its name, value, unit, and why it is that much."""

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
    "FIELD_BYTES_MAX", 1 * MIB, "bytes", "one field of a record; a longer one keeps its head and tail and says so"
)
RECORD_BYTES_MAX = _limit(
    "RECORD_BYTES_MAX", 4 * MIB, "bytes", "one line of the spool and of a batch; larger than all content fields cut"
)
CAPTURE_NODES_MAX = _limit(
    "CAPTURE_NODES_MAX", 20_000, "values", "walked in one argument; bounds the stall of a call to tens of milliseconds"
)
CAPTURE_DEPTH_MAX = _limit("CAPTURE_DEPTH_MAX", 64, "levels", "deeper nesting is shown as a marker, as JSON viewers do")
CAPTURE_TEXT_MAX = _limit(
    "CAPTURE_TEXT_MAX", 256 * KIB, "characters", "encoded without a second look: 4 bytes for each stay within a field"
)
CAPTURE_INT_BITS_MAX = _limit("CAPTURE_INT_BITS_MAX", 4_096, "bits", "shown as digits: their cost grows as the square")
CAPTURE_SHAPES_MAX = _limit("CAPTURE_SHAPES_MAX", 4_096, "classes", "whose declared fields are looked up once and kept")
ERRORS_WITHHELD_MAX = _limit(
    "ERRORS_WITHHELD_MAX", 32, "errors", "of omitted calls below that a call knows again, and of a chain looked at"
)
MASK_RUNS_MAX = _limit(
    "MASK_RUNS_MAX", 500, "runs", "of letters and digits looked at for a key; beyond, its literals are searched for"
)
MASK_NAMES_MAX = _limit("MASK_NAMES_MAX", 4_096, "names", "of fields whose being a secret's is found once and kept")
STREAM_CHUNKS_MAX = _limit("STREAM_CHUNKS_MAX", 10_000, "chunks", "kept of what a generator yields")
NAME_CHARS_MAX = _limit("NAME_CHARS_MAX", 1_024, "characters", "names are labels; longer text belongs in inputs")
ID_CHARS_MAX = _limit("ID_CHARS_MAX", 512, "characters", "ids are indexed")
TAGS_MAX = _limit("TAGS_MAX", 128, "tags", "each is a row of an index")
EVENTS_MAX = _limit("EVENTS_MAX", 128, "events", "per call, OpenTelemetry's own default")
ATTRIBUTES_MAX = _limit("ATTRIBUTES_MAX", 1_024, "attributes", "per call; OpenTelemetry's 128 loses long chats")
ERROR_CHARS_MAX = _limit("ERROR_CHARS_MAX", 32 * KIB, "characters", "an error message or traceback")

# --- the spool and the sender ---
SEGMENT_BYTES = _limit(
    "SEGMENT_BYTES",
    2 * MIB,
    "bytes",
    "the unit that is reserved, rotated, dropped and adopted; a longer line has its own",
)
SPOOL_BYTES_MAX = _limit(
    "SPOOL_BYTES_MAX",
    1024 * MIB,
    "bytes",
    "of one process, and of ended ones in a whole spool directory; the oldest file goes first and is counted",
)
SPOOL_FILES_MAX = _limit(
    "SPOOL_FILES_MAX", 100_000, "files", "of ended processes in a spool directory, which is listed"
)
MEMORY_BYTES_MAX = _limit(
    "MEMORY_BYTES_MAX", 16 * MIB, "bytes", "held in memory while the spool cannot be written; then counted as lost"
)
REFUSED_BYTES_MAX = _limit("REFUSED_BYTES_MAX", 64 * MIB, "bytes", "of refused records kept for a person, per folder")
SMALL_RECORD_BYTES = _limit(
    "SMALL_RECORD_BYTES", 16 * KIB, "bytes", "a record is not cut below this when an endpoint says it is too large"
)
BATCH_BYTES_MAX = _limit("BATCH_BYTES_MAX", 1 * MIB, "bytes", "of records in one request, before compression")
BATCH_RECORDS_MAX = _limit("BATCH_RECORDS_MAX", 1_000, "records", "in one request")
ANSWER_BYTES_MAX = _limit("ANSWER_BYTES_MAX", 64 * KIB, "bytes", "read of any answer: an endless one costs nothing")
BATCH_DELAY_S = _time(
    "BATCH_DELAY_S", 0.25, "waited for company before a batch leaves: few requests, and soon on the page"
)
IDLE_POLL_S = _time("IDLE_POLL_S", 1.0, "the sender's look-round when nothing wakes it")
SYNC_INTERVAL_S = _time("SYNC_INTERVAL_S", 1.0, "between two fdatasync of what is not delivered yet")
BACKOFF_FIRST_S = _time("BACKOFF_FIRST_S", 0.25, "first wait after an unreachable endpoint, then doubled, with jitter")
BACKOFF_MAX_S = _time("BACKOFF_MAX_S", 5.0, "longest wait between tries; an outage ends unnoticed within it")
RETRY_AFTER_MAX_S = _time("RETRY_AFTER_MAX_S", 300.0, "the longest Retry-After that is obeyed")
CONNECT_TIMEOUT_S = _time("CONNECT_TIMEOUT_S", 2.0, "to open a connection to the endpoint")
REPORT_TIMEOUT_S = _time("REPORT_TIMEOUT_S", 1.0, "to report the balance after the last batch, also at exit")
ANSWER_TIMEOUT_S = _time("ANSWER_TIMEOUT_S", 10.0, "to wait for a batch's receipt")
EXIT_TIMEOUT_S = _time("EXIT_TIMEOUT_S", 2.0, "the process's exit is held up by at most this")
FORK_WAIT_S = _time("FORK_WAIT_S", 0.5, "a fork waits for a name look-up of the sender, which may hang")
FORK_WAIT_MAX_S = _time(
    "FORK_WAIT_MAX_S", 10.0, "a fork waits for an import or a TLS step of the sender, which take moments"
)
PROOF_AGE_S = _time(
    "PROOF_AGE_S", 5.0, "for which a server's proof holds for the client; the sender asks each connection"
)
ADOPT_INTERVAL_S = _time(
    "ADOPT_INTERVAL_S", 1.0, "between looks for what ended processes left, such as a pool's children"
)
ADOPT_FILES_MAX = _limit(
    "ADOPT_FILES_MAX", 64, "files", "of ended processes open at once, and sent in one request if they are small"
)
SPOOL_CHECK_S = _time("SPOOL_CHECK_S", 0.25, "between looks whether somebody deleted or cut the spool's files")
BOUND_INTERVAL_S = _time("BOUND_INTERVAL_S", 10.0, "between looks at the size of the whole spool directory")
OUTAGE_WARN_S = _time("OUTAGE_WARN_S", 5.0, "an outage is logged once it has lasted this long; an exit says so itself")
WARN_INTERVAL_S = _time("WARN_INTERVAL_S", 60.0, "between two warnings of the same kind")

# --- integrations ---
RUNS_MAX = _limit(
    "RUNS_MAX", 10_000, "runs", "open at once in one LangChain handler; the oldest is closed as abandoned"
)
RUN_FRAMES_MAX = _limit(
    "RUN_FRAMES_MAX", 500, "frames", "looked at for the LangChain model in whose code a call begins; 50 ns each"
)
RUN_AGE_MAX_S = _time("RUN_AGE_MAX_S", 3_600.0, "a run whose end never comes is closed as abandoned")
MEDIA_HASH_BYTES_MAX = _limit(
    "MEDIA_HASH_BYTES_MAX",
    8 * MIB,
    "bytes",
    "of an image or recording that are hashed; of larger ones the size is kept",
)

# --- between processes ---
BAGGAGE_SENT_BYTES = _limit(
    "BAGGAGE_SENT_BYTES", 8 * KIB, "bytes", "of a whole baggage header that is sent, what every reader of W3C takes"
)
BAGGAGE_READ_CHARS = _limit(
    "BAGGAGE_READ_CHARS", 64 * KIB, "characters", "of a baggage header that are looked at; more than servers take"
)
TRACESTATE_CHARS = _limit(
    "TRACESTATE_CHARS", 512, "characters", "of a tracestate that is passed on, as W3C Trace Context asks at least"
)

# --- the server ---
HEAD_BYTES_MAX = _limit("HEAD_BYTES_MAX", 64 * KIB, "bytes", "of a request's line and headers that come in pieces")
HEAD_TIMEOUT_S = _time("HEAD_TIMEOUT_S", 20.0, "for the head of a request, from a connection's or its own first byte")
UNREAD_TIMEOUT_S = _time("UNREAD_TIMEOUT_S", 5.0, "to go on with a body that nobody reads, once it was answered")
CONNECTIONS_MAX = _limit(
    "CONNECTIONS_MAX", 4_096, "connections", "open at once; fewer where 3/4 of the file descriptors are fewer"
)
DESCRIPTORS_WANTED = _limit(
    "DESCRIPTORS_WANTED", 8_192, "descriptors", "asked of the system at the start; leaves room beside the connections"
)
BODY_BYTES_MAX = _limit("BODY_BYTES_MAX", 20 * MIB, "bytes", "of a request after decompression, as the OTel Collector")
BODY_WIRE_BYTES_MAX = _limit("BODY_WIRE_BYTES_MAX", 20 * MIB, "bytes", "of a request as sent")
BODY_RECORDS_MAX = _limit("BODY_RECORDS_MAX", 20_000, "records", "in one request")
BODY_TIMEOUT_S = _time("BODY_TIMEOUT_S", 30.0, "to receive a whole body; a slow sender must not hold a place for ever")
BODIES_BYTES_MAX = _limit(
    "BODIES_BYTES_MAX",
    64 * MIB,
    "bytes",
    "of request bodies held at once, and as much again unpacked; then 503 or a wait",
)
GZIP_MEMBERS_MAX = _limit(
    "GZIP_MEMBERS_MAX", 64, "members", "or zstd frames in one body; each costs work, few need any"
)
ZSTD_WINDOW_MAX = _limit("ZSTD_WINDOW_MAX", 8 * MIB, "bytes", "of memory a zstd frame may ask for, as RFC 9659 says")
NESTING_MAX = _limit("NESTING_MAX", 200, "levels", "of JSON in one record; readers of it recurse")
BALANCE_BYTES_MAX = _limit(
    "BALANCE_BYTES_MAX", 4 * KIB, "bytes", "of a client's balance header; larger ones are ignored"
)
SMALL_BODY_BYTES_MAX = _limit("SMALL_BODY_BYTES_MAX", 64 * KIB, "bytes", "of a form or a settings request")
WRONG_KEY_ADDRESSES_MAX = _limit("WRONG_KEY_ADDRESSES_MAX", 10_000, "addresses", "whose wrong keys are counted at once")
LOGIN_TOKENS_MAX = _limit("LOGIN_TOKENS_MAX", 100, "tokens", "printed and not yet used; the oldest goes first")
SHUTDOWN_TIMEOUT_S = _time("SHUTDOWN_TIMEOUT_S", 3.0, "for requests under way after SIGTERM; then they are cancelled")
REFUSALS_MAX = _limit("REFUSALS_MAX", 1_000, "refusals", "listed in one answer; the rest are only counted")
PAGE_ROWS = _limit("PAGE_ROWS", 50, "rows", "of a list, unless asked otherwise")
PAGE_ROWS_MAX = _limit("PAGE_ROWS_MAX", 1_000, "rows", "of a list at most")
TRACE_RECORDS_MAX = _limit("TRACE_RECORDS_MAX", 10_000, "records", "of one trace in one answer; a cursor goes on")
TREE_ROWS = _limit("TREE_ROWS", 500, "rows", "of a trace drawn on one page; a link goes on to the next")
VIEW_VALUES_MAX = _limit("VIEW_VALUES_MAX", 2_000, "values", "of one JSON field drawn on a page; the JSON twin has all")
VIEW_TEXT_CHARS = _limit("VIEW_TEXT_CHARS", 1_000, "characters", "of a text shown before 'show all'")
TEMPLATE_CHARS_MAX = _limit("TEMPLATE_CHARS_MAX", 256 * KIB, "characters", "of one prompt template")
DEPLOYMENT_BYTES_MAX = _limit(
    "DEPLOYMENT_BYTES_MAX", 1 * MIB, "bytes", "of one version of a deployment; it is read for each completion"
)
DEPLOYMENT_USES_MAX = _limit(
    "DEPLOYMENT_USES_MAX", 1_000, "records", "of a deployment counted for its figures on the page; beyond: the latest"
)
DEPLOYMENT_COSTS_MAX = _limit(
    "DEPLOYMENT_COSTS_MAX", 5_000, "records", "read for the costs of all deployments of a page, shared among them"
)
DEPLOY_FILES_MAX = _limit("DEPLOY_FILES_MAX", 1_000, "files", "of prompts deployed by one command")
DEPLOY_VALUES_MAX = _limit("DEPLOY_VALUES_MAX", 20_000, "values", "in one such file, aliases counted each time")
FORM_BYTES_MAX = _limit("FORM_BYTES_MAX", 4 * MIB, "bytes", "of a page's form with templates, as a browser sends it")
FORM_VARIABLES_MAX = _limit("FORM_VARIABLES_MAX", 100, "fields", "for variables in a page's form; the API takes any")
DIFF_LINES_MAX = _limit(
    "DIFF_LINES_MAX", 1_000, "lines", "changed on each side that are compared one by one: the time grows as the square"
)
DIFF_ROWS_MAX = _limit("DIFF_ROWS_MAX", 5_000, "lines", "of two versions drawn on one page; the API has all of them")
ENDED_SESSIONS_MAX = _limit("ENDED_SESSIONS_MAX", 10_000, "sessions", "ended and not yet run out; the oldest go first")
CACHE_BYTES_MAX = _limit(
    "CACHE_BYTES_MAX", 256 * MIB, "bytes", "of stored responses per project; least recent go first"
)
CACHE_AGE_MAX_S = _time("CACHE_AGE_MAX_S", 7 * 86_400.0, "a stored response is served no longer than this")
COMMIT_DELAY_S = _time("COMMIT_DELAY_S", 0.004, "a commit waits for others to join its sync")
COMMIT_DELAY_SINGLE_S = _time("COMMIT_DELAY_SINGLE_S", 0.001, "the same where only single records wait, as completions")
COMMIT_RECORDS_MAX = _limit("COMMIT_RECORDS_MAX", 5_000, "records", "in one transaction")
WRITE_QUEUE_MAX = _limit("WRITE_QUEUE_MAX", 64, "batches", "waiting for the writer; then 503, and clients keep theirs")
PROVIDER_TIMEOUT_S = _time("PROVIDER_TIMEOUT_S", 180.0, "for a provider's answer, as Parea's own client waits")
PROVIDER_RETRIES = _limit("PROVIDER_RETRIES", 2, "retries", "of a provider call that failed in a passing way")
PROVIDER_CONNECTIONS_MAX = _limit(
    "PROVIDER_CONNECTIONS_MAX", 1_000, "connections", "to one provider at once; further requests wait for one"
)
PROVIDER_BODY_BYTES_MAX = _limit(
    "PROVIDER_BODY_BYTES_MAX", 64 * MIB, "bytes", "of a provider's whole response, once unpacked; media are base64"
)
REFUSALS_LEARNED_MAX = _limit(
    "REFUSALS_LEARNED_MAX", 1_024, "refusals", "of parameters by models that a provider's client remembers"
)
FALLBACKS_MAX = _limit("FALLBACKS_MAX", 8, "fallbacks", "of one model; each may take its own tries")
FALLBACK_WAIT_MAX_S = _time(
    "FALLBACK_WAIT_MAX_S", 5.0, "the longest Retry-After that is waited for while there is a fallback to ask instead"
)
REQUESTS_PER_MINUTE_MAX = _limit(
    "REQUESTS_PER_MINUTE_MAX", 60_000, "requests", "a key's rate limit at most; the time of each is kept for a minute"
)
PROMPT_TOKEN_CHARS = _limit(
    "PROMPT_TOKEN_CHARS", 3, "characters", "of a prompt counted as one token in estimates, where most tokens have four"
)
PART_TOKENS = _limit("PART_TOKENS", 1_500, "tokens", "estimated for an image or another part that is no text")
SPENDING_DAYS_MAX = _limit("SPENDING_DAYS_MAX", 400, "days", "for which the amounts that a key spent are kept")
MISSING_VARIABLES_MAX = _limit(
    "MISSING_VARIABLES_MAX", 100, "names", "of variables without a value that a completion's record lists"
)
PROMPT_CHARS_MAX = _limit(
    "PROMPT_CHARS_MAX",
    8 * MIB,
    "characters",
    "of all messages once filled: one variable named often cannot become gigabytes",
)
ANSWER_TOKENS_DEFAULT = _limit(
    "ANSWER_TOKENS_DEFAULT", 4_096, "tokens", "asked of Anthropic, which demands a bound, when max_length is not given"
)
ANSWERS_KEPT_MAX = _limit(
    "ANSWERS_KEPT_MAX", 256, "answers", "held in memory for a repeated inference_id whose record cannot answer it"
)
ANSWERS_KEPT_BYTES_MAX = _limit("ANSWERS_KEPT_BYTES_MAX", 32 * MIB, "bytes", "of these answers; the oldest go first")
SCORED_CHARS_MAX = _limit(
    "SCORED_CHARS_MAX",
    20_000,
    "characters",
    "of an answer compared with its target: about 10 ms, which grow as the square",
)
STREAM_EVENT_BYTES_MAX = _limit("STREAM_EVENT_BYTES_MAX", 4 * MIB, "bytes", "of one event of a provider's stream")
STREAM_CHARS_MAX = _limit(
    "STREAM_CHARS_MAX", 8 * MIB, "characters", "of one streamed answer, held until its record is stored"
)
STREAM_SILENCE_S = _time(
    "STREAM_SILENCE_S", 12.0, "without a text before a stream says that it goes on; many proxies wait 30 or 60 s"
)
STREAM_TIME_MAX_S = _time("STREAM_TIME_MAX_S", 1_800.0, "for one streamed answer, however slowly it comes")
UNSTORED_RECORDS_MAX = _limit(
    "UNSTORED_RECORDS_MAX", 64, "records", "of answered completions held in memory until the store takes them"
)
COMMIT_PATIENCE_S = _time(
    "COMMIT_PATIENCE_S", 5.0, "a paid answer waits for a busy store before the caller is told 503"
)
GATEWAY_CLOSE_S = _time("GATEWAY_CLOSE_S", 2.0, "for completions under way when the server stops")
COMPLETION_TRIES_MAX = _limit(
    "COMPLETION_TRIES_MAX", 3, "tries", "of one completion by the client, all under the same inference_id"
)
CUSTOM_PRICES_MAX = _limit(
    "CUSTOM_PRICES_MAX", 2_000, "prices", "in a user's own file; each new model is compared with all of them"
)
PRICED_MODELS_MAX = _limit("PRICED_MODELS_MAX", 4_096, "models", "whose price is looked up once and kept")
LOGIN_TOKEN_AGE_S = _time("LOGIN_TOKEN_AGE_S", 3_600.0, "a printed address logs in once, within this")
SESSION_AGE_S = _time("SESSION_AGE_S", 30 * 86_400.0, "a browser stays logged in")
WRONG_KEYS_MAX = _limit("WRONG_KEYS_MAX", 20, "tries", "per address and minute before 429")
QUERY_TIMEOUT_S = _time("QUERY_TIMEOUT_S", 5.0, "one read of the store; then it is interrupted and answers 503")
SLOW_READ_S = _time("SLOW_READ_S", 0.5, "a read of the store that takes longer is listed on the status page")
SLOW_READS_MAX = _limit("SLOW_READS_MAX", 20, "reads", "listed on the status page: the latest slow ones")
CLIENTS_MAX = _limit("CLIENTS_MAX", 10_000, "processes", "whose balance sheets are kept; the least recent go first")
PROBE_INTERVAL_S = _time("PROBE_INTERVAL_S", 5.0, "between two tries of a store that cannot write, when nobody writes")
STORE_READERS = _limit("STORE_READERS", 4, "connections", "that read the store at once; a slow read leaves three free")
PAGE_BYTES_MAX = _limit("PAGE_BYTES_MAX", 64 * MIB, "bytes", "of records in one page of a read; a cursor goes on")
TREE_DEPTH_MAX = _limit("TREE_DEPTH_MAX", 60, "levels", "of logs nested in one answer; Parea's clients recurse")
FEEDBACK_MAX = _limit("FEEDBACK_MAX", 100, "feedbacks", "kept of one record; the oldest go first")
EXPERIMENTS_MAX = _limit("EXPERIMENTS_MAX", 1_000, "experiments", "listed in one answer, the latest")
EXPERIMENT_RECORDS_MAX = _limit(
    "EXPERIMENT_RECORDS_MAX", 100_000, "records", "read for the statistics of one experiment"
)
DATASET_CASES_MAX = _limit("DATASET_CASES_MAX", 50_000, "cases", "of one dataset, which is read as a whole")
DATASET_BYTES_MAX = _limit("DATASET_BYTES_MAX", 64 * MIB, "bytes", "of one dataset's cases, for the same reason")
PATCHES_MAX = _limit(
    "PATCHES_MAX", 100_000, "patches", "of a project that wait for their record; then they are refused"
)
OTLP_ATTRIBUTES_MAX = _limit(
    "OTLP_ATTRIBUTES_MAX", 4_096, "attributes", "of one span or event that are read; how many more came is kept"
)
OTLP_NESTING_MAX = _limit(
    "OTLP_NESTING_MAX", 64, "levels", "of one attribute's value; JSON in a string that is deeper stays a string"
)
OTLP_REASONS_MAX = _limit("OTLP_REASONS_MAX", 8, "reasons", "told of why spans of a request were rejected")
OTLP_MESSAGE_CHARS_MAX = _limit("OTLP_MESSAGE_CHARS_MAX", 2_000, "characters", "of the message of a partial success")
SPAN_FAMILY_MAX = _limit(
    "SPAN_FAMILY_MAX", 20_000, "records", "below a span that are changed by what it says when it comes after them"
)
SPAN_JOINS_AGE_MAX_S = _time(
    "SPAN_JOINS_AGE_MAX_S", 86_400.0, "that a span waits for its other half, and a flag for the spans below it"
)
SPAN_HALVES_NANOS_MAX = _limit(
    "SPAN_HALVES_NANOS_MAX", 1_000_000_000, "ns", "between the halves of one stream; the same prompt may be sent again"
)
SAME_ANSWER_MAX = _limit(
    "SAME_ANSWER_MAX", 16, "records", "of one trace with the same answer's id; more show that it names no answer"
)
TRACE_MODELS_MAX = _limit("TRACE_MODELS_MAX", 128, "models", "told apart in one trace's summary")
CACHE_USES_MAX = _limit("CACHE_USES_MAX", 10_000, "uses", "of stored responses noted in memory between two evictions")
SCRUB_WAIT_S = _time("SCRUB_WAIT_S", 0.25, "for readers, to empty the log of content that is left out since")
WAL_BYTES_MAX = _limit(
    "WAL_BYTES_MAX", 64 * MIB, "bytes", "of the write-ahead log before it is moved into the database"
)
WRITER_CACHE_BYTES = _limit("WRITER_CACHE_BYTES", 64 * MIB, "bytes", "of the database's pages kept by its writer")
READER_CACHE_BYTES = _limit("READER_CACHE_BYTES", 8 * MIB, "bytes", "of the database's pages kept by each reader")
