#include "providers/local_answer.h"
#include <string.h>
#include <sys/random.h>
#include <time.h>

static aiq_str str_of(const aiq_buf *text)
{
    return (aiq_str){(const char *)text->data, text->len};
}

/* --- what all share --- */

void local_writer_init(local_writer *w, const chat_request *chat, const provider_events *events,
                       void *arg)
{
    static const char hex[] = "0123456789abcdef";
    uint8_t random[12] = {0};

    w->events = *events;
    w->arg = arg;
    w->stream = chat->stream;
    w->wants_usage = chat_request_wants_usage(chat);
    w->tells_prompt = chat->prompt_first;
    if (getrandom(random, sizeof(random), GRND_NONBLOCK) < 0) {
        memcpy(random, &(uint64_t){loop_now_ns()}, sizeof(uint64_t));
    }
    for (size_t i = 0; i < sizeof(random); i++) {
        w->id[2 * i] = hex[random[i] >> 4];
        w->id[2 * i + 1] = hex[random[i] & 15];
    }
    /* {"id":…,"object":…,"created":…,"model":…,"choices": */
    aiq_buf_printf(&w->prefix,
                   "{\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion%s\",\"created\":%lld,"
                   "\"model\":",
                   w->id, w->stream ? ".chunk" : "", (long long)time(NULL));
    aiq_buf_add(&w->prefix, chat->model.text.data, chat->model.text.len);
    aiq_buf_text(&w->prefix, ",\"choices\":");
}

void local_writer_free(local_writer *w)
{
    aiq_buf_free(&w->prefix);
    aiq_buf_free(&w->out);
}

static void add_usage(aiq_buf *out, provider_tokens tokens)
{
    aiq_buf_printf(out,
                   "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
                   "\"prompt_tokens_details\":{\"cached_tokens\":%lld},"
                   "\"completion_tokens_details\":{\"reasoning_tokens\":%lld}}",
                   (long long)tokens.in, (long long)tokens.out,
                   (long long)tokens.in + (long long)tokens.out, (long long)tokens.cached,
                   (long long)tokens.reasoning);
}

/* A chunk: the prefix, its choices, and the usage that it must name. */
static void send_chunk(local_writer *w, const provider_tokens *usage)
{
    const provider_tokens prompt = {.in = w->prompt.in, .cached = w->prompt.cached};

    if (w->tells_prompt && usage == NULL) {
        usage = &prompt;
    }
    w->tells_prompt = false;
    if (usage) {
        aiq_buf_text(&w->out, ",\"usage\":");
        add_usage(&w->out, *usage);
    } else if (w->wants_usage) {
        aiq_buf_text(&w->out, ",\"usage\":null");
    }
    aiq_buf_text(&w->out, "}");
    w->events.event(w->arg, str_of(&w->out));
    aiq_buf_consume(&w->out, w->out.len);
}

/* --- chunks of one answer --- */

static void add_logprobs(aiq_buf *out, const local_answer *a, bool any)
{
    if (!a->writer->wants_logprobs || !any) {
        aiq_buf_text(out, "\"logprobs\":null");
        return;
    }
    aiq_buf_text(out, "\"logprobs\":{\"content\":[");
    aiq_buf_add(out, a->logprobs.data, a->logprobs.len);
    aiq_buf_text(out, "],\"refusal\":null}");
}

static aiq_buf *begin_delta(local_answer *a)
{
    aiq_buf *out = &a->writer->out;

    aiq_buf_add(out, a->writer->prefix.data, a->writer->prefix.len);
    aiq_buf_printf(out, "[{\"index\":%u,\"delta\":{", a->index);
    return out;
}

static void end_delta(local_answer *a)
{
    aiq_buf *out = &a->writer->out;

    aiq_buf_text(out, "},");
    add_logprobs(out, a, true);
    aiq_buf_consume(&a->logprobs, a->logprobs.len);
    aiq_buf_text(out, ",\"finish_reason\":null}]");
    send_chunk(a->writer, NULL);
}

static void send_text(local_answer *a, const char *field, aiq_str text)
{
    aiq_buf *out = begin_delta(a);

    aiq_buf_text(out, field);
    json_quote(out, text.data, text.len);
    end_delta(a);
}

/* Its role, before anything else. The log-probabilities wait for what they belong to. */
static void send_begin(local_answer *a)
{
    aiq_buf waiting = a->logprobs;

    if (!a->begun) {
        a->begun = true;
        a->logprobs = (aiq_buf){0};
        send_text(a, "\"role\":\"assistant\",\"content\":", AIQ_STR(""));
        a->logprobs = waiting;
    }
}

/* The calls of an answer are told apart by its ids, which no other answer has. */
static void add_id(aiq_buf *out, const local_answer *a, uint32_t call)
{
    aiq_buf_printf(out, "\"id\":\"call_%s%02x%02x\",\"type\":\"function\"", a->writer->id,
                   a->index, call);
}

static void send_call(local_answer *a, const tool_piece *piece)
{
    aiq_buf *out = begin_delta(a);

    aiq_buf_printf(out, "\"tool_calls\":[{\"index\":%u,", piece->call);
    if (piece->type == TOOL_CALL) {
        add_id(out, a, piece->call);
        aiq_buf_text(out, ",\"function\":{\"name\":");
        json_quote(out, piece->text.data, piece->text.len);
        aiq_buf_text(out, ",\"arguments\":\"\"}}]");
    } else {
        aiq_buf_text(out, "\"function\":{\"arguments\":");
        json_quote(out, piece->text.data, piece->text.len);
        aiq_buf_text(out, "}}]");
    }
    end_delta(a);
}

static void send_piece(local_answer *a, const tool_piece *piece)
{
    switch (piece->type) {
    case TOOL_TEXT:
        send_text(a, "\"content\":", piece->text);
        break;
    case TOOL_THOUGHT:
        send_text(a, "\"reasoning_content\":", piece->text);
        break;
    case TOOL_CALL:
    case TOOL_ARGUMENTS:
        send_call(a, piece);
        break;
    case TOOL_END:
        break;
    }
}

/* --- a whole answer --- */

static void begin_call(local_answer *a, const tool_piece *piece)
{
    aiq_buf *out = &a->tool_calls;

    a->call_at = out->len;
    aiq_buf_text(out, out->len > 0 ? ",{" : "{");
    add_id(out, a, piece->call);
    aiq_buf_text(out, ",\"function\":{\"name\":");
    json_quote(out, piece->text.data, piece->text.len);
    aiq_buf_text(out, ",\"arguments\":");
}

static void end_call(local_answer *a, const tool_piece *piece)
{
    if (piece->whole) {
        json_quote(&a->tool_calls, (char *)a->arguments.data, a->arguments.len);
        aiq_buf_text(&a->tool_calls, "}}");
    } else {
        a->tool_calls.len = a->call_at;
        aiq_buf_add(&a->text, piece->text.data, piece->text.len);
    }
    aiq_buf_consume(&a->arguments, a->arguments.len);
}

static void keep_piece(local_answer *a, const tool_piece *piece)
{
    switch (piece->type) {
    case TOOL_TEXT:
        aiq_buf_add(&a->text, piece->text.data, piece->text.len);
        break;
    case TOOL_THOUGHT:
        aiq_buf_add(&a->thought, piece->text.data, piece->text.len);
        break;
    case TOOL_CALL:
        begin_call(a, piece);
        break;
    case TOOL_ARGUMENTS:
        aiq_buf_add(&a->arguments, piece->text.data, piece->text.len);
        break;
    case TOOL_END:
        end_call(a, piece);
        break;
    }
}

/* --- an answer --- */

static void on_piece(void *arg, const tool_piece *piece)
{
    local_answer *a = arg;

    a->calls += piece->type == TOOL_END && piece->whole;
    if (a->writer->stream) {
        send_piece(a, piece);
    } else {
        keep_piece(a, piece);
    }
}

void local_answer_init(local_answer *a, local_writer *w, unsigned index,
                       const tool_options *options)
{
    a->writer = w;
    a->index = index;
    if (options) {
        a->parser = tool_parser_new(options, on_piece, a);
    }
}

void local_answer_free(local_answer *a)
{
    if (a->parser) {
        tool_parser_free(a->parser);
    }
    aiq_buf_free(&a->logprobs);
    aiq_buf_free(&a->text);
    aiq_buf_free(&a->thought);
    aiq_buf_free(&a->tool_calls);
    aiq_buf_free(&a->arguments);
}

void local_answer_say(local_answer *a, const aiq_buf *text, const aiq_buf *logprobs)
{
    const tool_piece piece = {.type = TOOL_TEXT, .text = str_of(text)};

    if (logprobs->len > 0) {
        aiq_buf_text(&a->logprobs, a->logprobs.len > 0 ? "," : "");
        aiq_buf_add(&a->logprobs, logprobs->data, logprobs->len);
    }
    if (a->writer->stream) {
        send_begin(a);
    }
    if (a->parser) {
        tool_parser_push(a->parser, piece.text.data, piece.text.len);
    } else if (text->len > 0 || (a->writer->stream && a->logprobs.len > 0)) {
        on_piece(a, &piece);
    }
}

static const char *finish_reason(const local_answer *a)
{
    return a->finish == INFER_FINISH_LENGTH ? "length" : a->calls > 0 ? "tool_calls" : "stop";
}

static void add_finish(aiq_buf *out, const local_answer *a)
{
    aiq_buf_printf(out, ",\"finish_reason\":\"%s\"", finish_reason(a));
    if (a->stop) {
        aiq_buf_text(out, ",\"stop_reason\":");
        json_quote(out, a->stop, strlen(a->stop));
    }
    aiq_buf_text(out, "}");
}

void local_answer_end(local_answer *a, infer_finish finish, const char *stop)
{
    aiq_buf *out = &a->writer->out;

    a->finish = finish;
    a->stop = stop;
    if (a->writer->stream) {
        send_begin(a);
    }
    if (a->parser) {
        tool_parser_end(a->parser);
    }
    if (!a->writer->stream) {
        return;
    }
    aiq_buf_add(out, a->writer->prefix.data, a->writer->prefix.len);
    aiq_buf_printf(out, "[{\"index\":%u,\"delta\":{},", a->index);
    add_logprobs(out, a, a->logprobs.len > 0);
    add_finish(out, a);
    aiq_buf_text(out, "]");
    send_chunk(a->writer, NULL);
}

/* --- all of them --- */

static void send_end(local_writer *w, provider_tokens tokens)
{
    if (w->wants_usage) {
        aiq_buf_add(&w->out, w->prefix.data, w->prefix.len);
        aiq_buf_text(&w->out, "[]");
        send_chunk(w, &tokens);
    }
    w->events.event(w->arg, AIQ_STR("[DONE]"));
    w->events.done(w->arg, tokens);
}

static void add_message(aiq_buf *out, const local_answer *a)
{
    aiq_buf_text(out, "{\"role\":\"assistant\",\"content\":");
    if (a->text.len == 0 && (a->tool_calls.len > 0 || a->thought.len > 0)) {
        aiq_buf_text(out, "null");
    } else {
        json_quote(out, (char *)a->text.data, a->text.len);
    }
    aiq_buf_text(out, ",\"refusal\":null");
    if (a->thought.len > 0) {
        aiq_buf_text(out, ",\"reasoning_content\":");
        json_quote(out, (char *)a->thought.data, a->thought.len);
    }
    if (a->tool_calls.len > 0) {
        aiq_buf_text(out, ",\"tool_calls\":[");
        aiq_buf_add(out, a->tool_calls.data, a->tool_calls.len);
        aiq_buf_text(out, "]");
    }
    aiq_buf_text(out, "}");
}

static void send_reply(local_writer *w, const local_answer *answers, unsigned n,
                       provider_tokens tokens)
{
    provider_reply reply = {.status = 200, .tokens = tokens};
    aiq_buf *out = &w->out;

    aiq_buf_add(out, w->prefix.data, w->prefix.len);
    for (unsigned i = 0; i < n; i++) {
        aiq_buf_printf(out, "%s{\"index\":%u,\"message\":", i > 0 ? "," : "[", i);
        add_message(out, &answers[i]);
        aiq_buf_text(out, ",");
        add_logprobs(out, &answers[i], true);
        add_finish(out, &answers[i]);
    }
    aiq_buf_text(out, "],\"usage\":");
    add_usage(out, tokens);
    aiq_buf_text(out, "}");
    reply.body = str_of(out);
    w->events.reply(w->arg, &reply);
}

void local_answers_done(const local_answer *answers, unsigned n, provider_tokens tokens)
{
    local_writer *w = answers[0].writer;

    if (w->stream) {
        send_end(w, tokens);
    } else {
        send_reply(w, answers, n, tokens);
    }
}
