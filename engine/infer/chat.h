/*
 * Chats as prompts, by the template in the model's file (jinja.h); a file without one gets
 * ChatML where its vocabulary has ChatML's tokens.
 *
 * Who speaks and what the template says may be control tokens; what a message says is text,
 * so it cannot end its turn or begin another.
 *
 * What a template does with system messages, tools and calls is found out once, by giving it
 * some. Where it shows no system message, the first user's begins with that. Where it shows no
 * tools, a sentence in the system message tells of them and of the way to call them (HERMES in
 * tool_calls.h); where it shows no calls, they and their results are text: models that were
 * not taught tools can use them so, and a conversation that began with another model goes on.
 */
#ifndef INFER_CHAT_H
#define INFER_CHAT_H

#include "infer/infer.h"
#include "infer/tokenizer.h"
#include "infer/tool_calls.h"

typedef struct chat_template chat_template;

typedef enum {
    CHAT_OK,
    CHAT_TOO_LONG, /* out reached its limit, or the text max_len */
    CHAT_REFUSED   /* the template says no, or failed; err says why */
} chat_rc;

typedef struct {
    const infer_message *messages;
    size_t n;
    aiq_str tools; /* as in OpenAI's API: valid JSON, a list of objects; empty: none */
    const char
        *effort; /* in thinking: "none", "minimal", "low", …; NULL: as the template has it */
} chat_talk;

/* NULL, and one line in err, if the file has no template that we can run. Points into g. */
chat_template *chat_template_new(const gguf *g, const tokenizer *t, char *err, size_t errlen);
void chat_template_free(chat_template *c);

/* How the model writes calls. *thinks: its answers may begin with thoughts. */
tool_format chat_tool_format(const chat_template *c, bool *thinks);

/* Appends the prompt of a chat, up to where the assistant's answer begins. *is_thought: in the
 * midst of a thought. Any thread. */
chat_rc chat_render(const chat_template *c, const tokenizer *t, const chat_talk *talk,
                    size_t max_len, tokenizer_ids *out, bool *is_thought, char *err,
                    size_t errlen);

#endif
