/*
 * Any answer in any format, behind a byte that says which: however it is cut, the same pieces
 * come; calls have names of tools; what is whole is a JSON object.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "infer/tool_calls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    aiq_buf all; /* each piece's bytes, behind its kind where that changes */
    aiq_buf arguments;
    tool_piece_type last;
} taken;

static void on_piece(void *arg, const tool_piece *piece)
{
    taken *t = arg;
    json_error error;

    if (piece->text.len == 0) {
        abort();
    }
    if (piece->type != t->last || piece->type >= TOOL_CALL) {
        if (piece->type != TOOL_ARGUMENTS || t->last != TOOL_ARGUMENTS) {
            aiq_buf_printf(&t->all, "\n%d:", (int)piece->type);
        }
        t->last = piece->type;
    }
    if (piece->type == TOOL_CALL) {
        aiq_buf_consume(&t->arguments, t->arguments.len);
    } else if (piece->type == TOOL_ARGUMENTS) {
        aiq_buf_add(&t->arguments, piece->text.data, piece->text.len);
    } else if (piece->type == TOOL_END && piece->whole &&
               !json_scan((char *)t->arguments.data, t->arguments.len, NULL, 0, &error)) {
        abort();
    }
    aiq_buf_add(&t->all, piece->text.data, piece->text.len);
}

static void parse(const tool_options *o, const char *text, size_t len, size_t step, taken *t)
{
    tool_parser *p = tool_parser_new(o, on_piece, t);

    t->last = TOOL_END;
    for (size_t i = 0; i < len; i += step) {
        tool_parser_push(p, text + i, len - i < step ? len - i : step);
    }
    tool_parser_end(p);
    tool_parser_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const aiq_str names[] = {{"weather", 7}, {"f", 1}};
    tool_options o = {.names = names, .thinks = true};
    taken whole = {0}, cut = {0};

    if (size < 2 || size > 4096) {
        return 0;
    }
    o.format = (tool_format)((data[0] & 7) % (TOOL_PHI + 1));
    o.n_names = data[0] & 8 ? 0 : 2;
    o.one = data[0] & 16;
    o.is_thought = data[0] & 32;
    o.goes_on = data[0] & 64;
    parse(&o, (const char *)data + 1, size - 1, size, &whole);
    parse(&o, (const char *)data + 1, size - 1, data[0] & 128 ? 1 : 5, &cut);
    if (whole.all.len != cut.all.len ||
        (whole.all.len > 0 && memcmp(whole.all.data, cut.all.data, cut.all.len) != 0)) {
        abort();
    }
    aiq_buf_free(&whole.all);
    aiq_buf_free(&whole.arguments);
    aiq_buf_free(&cut.all);
    aiq_buf_free(&cut.arguments);
    return 0;
}
