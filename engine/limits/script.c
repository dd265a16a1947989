#include "limits/script.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include "engine.h"

#define SHA1 20

struct script {
    const char *text;
    size_t len;
    char name[2 * SHA1 + 1]; /* as Redis calls it */
    bool known[];            /* by loop: Redis has it */
};

script *script_new(const aiq_engine *engine, const char *text, size_t len)
{
    script *s = aiq_zalloc(sizeof(*s) + engine->options.loops * sizeof(s->known[0]));
    uint8_t digest[EVP_MAX_MD_SIZE];

    s->text = text;
    s->len = len;
    EVP_Digest(text, len, digest, NULL, EVP_sha1(), NULL);
    for (int i = 0; i < SHA1; i++) {
        snprintf(s->name + 2 * (size_t)i, 3, "%02x", digest[i]);
    }
    return s;
}

void script_free(script *s)
{
    free(s);
}

void script_begin(script_run *run, script *s, aiq_loop *loop)
{
    *run = (script_run){.script = s, .loop = loop, .whole = !s->known[loop->index]};
}

void script_words(const script_run *run, aiq_str words[2])
{
    const script *s = run->script;

    words[0] = run->whole ? AIQ_STR("EVAL") : AIQ_STR("EVALSHA");
    words[1] = run->whole ? (aiq_str){s->text, s->len} : (aiq_str){s->name, 2 * (size_t)SHA1};
}

bool script_forgotten(script_run *run, const redisReply *reply)
{
    run->script->known[run->loop->index] = reply != NULL;
    if (!run->call.refused || run->whole) {
        return false;
    }
    run->whole = true;
    return true;
}
