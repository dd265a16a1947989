/*
 * Chats as prompts, by the template in the model's file (jinja.h); a file without one gets
 * ChatML where its vocabulary has ChatML's tokens.
 *
 * Who speaks and what the template says may be control tokens; what a message says is text,
 * so it cannot end its turn or begin another.
 */
#ifndef INFER_CHAT_H
#define INFER_CHAT_H

#include "infer/infer.h"
#include "infer/tokenizer.h"

typedef struct chat_template chat_template;

typedef enum {
    CHAT_OK,
    CHAT_TOO_LONG, /* out reached its limit, or the text max_len */
    CHAT_REFUSED   /* the template says no, or failed; err says why */
} chat_rc;

/* NULL, and one line in err, if the file has no template that we can run. Points into g. */
chat_template *chat_template_new(const gguf *g, const tokenizer *t, char *err, size_t errlen);
void chat_template_free(chat_template *c);

/* Appends the prompt of a chat, up to where the assistant's answer begins. Any thread. */
chat_rc chat_render(const chat_template *c, const tokenizer *t, const infer_message *messages,
                    size_t n, size_t max_len, tokenizer_ids *out, char *err, size_t errlen);

#endif
