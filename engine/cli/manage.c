/* aiq keys, tenants, users: the control service's resources, over the admin socket. */

#include "cli/operator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MAX 160 /* longer than any name or id */

enum {
    TAKES_TENANT = 1,
    TAKES_USER = 2,
    TAKES_ROLE = 4,
    TAKES_MODELS = 8,
    TAKES_EXPIRES = 16,
    TAKES_LIMIT = 32,
    TAKES_BUDGET = 64
};

/* What the word after the verb is. */
typedef enum { WORD_NONE, WORD_NAME, WORD_ID } word_kind;

typedef struct {
    const char *name;
    aiq_method method;
    word_kind word;
    unsigned takes;
    const char *body; /* a member that the verb stands for, or NULL */
} verb;

typedef struct {
    const char *name; /* of the command and in the path */
    const char *help;
    const char *const *columns;
    const verb *verbs;
} resource;

/* A command line, taken apart. */
typedef struct {
    const resource *resource;
    const verb *verb;
    const char *command; /* for messages: "keys create" */
    const char *word;
    const char *socket, *tenant, *user, *role, *models, *expires, *limit, *budget;
    bool json;
    aiq_pool *pool;
} request;

/* Output. */

static void print_text(aiq_pool *pool, const json_value *value)
{
    aiq_str text = json_string(pool, value);

    fwrite(text.data, 1, text.len, stdout);
}

static void print_value(aiq_pool *pool, const json_value *value)
{
    json_value item;
    size_t cursor = 0;

    switch (value->type) {
    case JSON_STRING:
        print_text(pool, value);
        break;
    case JSON_ARRAY:
        for (unsigned i = 0; json_each(value, &cursor, NULL, &item); i++) {
            printf("%s", i ? "," : "");
            print_text(pool, &item);
        }
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        printf("%s", value->type == JSON_TRUE ? "yes" : "no");
        break;
    default:
        printf("-");
    }
}

/* A line: what scripts cut and people read. */
static void print_item(const request *q, const json_value *item)
{
    for (const char *const *column = q->resource->columns; *column; column++) {
        const json_value value = json_member(item, *column);
        printf("%s", column == q->resource->columns ? "" : "\t");
        print_value(q->pool, &value);
    }
    printf("\n");
}

/* The key alone on standard output, so that it can go where it is needed. */
static void print_key(const request *q, const json_value *reply)
{
    const json_value key = json_member(reply, "key"), id = json_member(reply, "id");
    const json_value tenant = json_member(reply, "tenant"), role = json_member(reply, "role");

    fprintf(stderr, "%s, for tenant %s with role %s. The key is shown this once:\n",
            json_string(q->pool, &id).data, json_string(q->pool, &tenant).data,
            json_string(q->pool, &role).data);
    print_text(q->pool, &key);
    printf("\n");
}

static void print_reply(const request *q, const json_value *reply)
{
    if (q->json) {
        printf("%.*s\n", (int)reply->text.len, reply->text.data);
    } else if (json_member(reply, "key").type == JSON_STRING) {
        print_key(q, reply);
    } else if (json_member(reply, "deleted").type == JSON_NONE) {
        print_item(q, reply);
    }
}

/* Requests. */

static void add_name(aiq_buf *body, const char *name)
{
    aiq_buf_printf(body, "%s\"%s\":", body->len > 1 ? "," : "", name);
}

static void add_text(aiq_buf *body, const char *name, const char *text)
{
    if (text) {
        add_name(body, name);
        json_quote(body, text, strlen(text));
    }
}

static void add_models(aiq_buf *body, const char *models)
{
    if (models == NULL) {
        return;
    }
    add_name(body, "models");
    aiq_buf_text(body, "[");
    for (;;) {
        size_t n = strcspn(models, ",");
        json_quote(body, models, n);
        models += n;
        if (*models == '\0') {
            break;
        }
        aiq_buf_text(body, ",");
        models++;
    }
    aiq_buf_text(body, "]");
}

static bool is_rate(const char *rate, size_t n, char unit)
{
    return n > 3 && n < 16 && rate[n - 3] == unit && memcmp(rate + n - 2, "/m", 2) == 0 &&
           strspn(rate, "0123456789") == n - 3;
}

/* 60r/m,50000t/m: requests and tokens, as aiq_limit_zone writes rates. Empty: none. */
static bool add_limits(aiq_buf *body, const char *limit)
{
    bool more = limit && *limit;

    if (limit == NULL) {
        return true;
    }
    add_name(body, "limits");
    aiq_buf_text(body, "{");
    for (const char *rate = limit; more; rate++) {
        size_t n = strcspn(rate, ",");
        bool requests = is_rate(rate, n, 'r');
        if (!requests && !is_rate(rate, n, 't')) {
            return false;
        }
        aiq_buf_printf(body, "%s\"%s_per_minute\":%lld", rate == limit ? "" : ",",
                       requests ? "requests" : "tokens", strtoll(rate, NULL, 10));
        rate += n;
        more = *rate == ',';
    }
    aiq_buf_text(body, "}");
    return true;
}

static bool make_body(const request *q, aiq_buf *body)
{
    aiq_buf_text(body, "{");
    if (q->verb->body) {
        aiq_buf_text(body, q->verb->body);
    }
    if (q->verb->word == WORD_NAME) {
        add_text(body, "name", q->word);
    }
    add_text(body, "tenant", q->tenant);
    add_text(body, "user", q->user);
    add_text(body, "role", q->role);
    add_models(body, q->models);
    add_text(body, "expires_at", q->expires);
    add_text(body, "budget", q->budget);
    bool ok = add_limits(body, q->limit);
    aiq_buf_text(body, "}");
    return ok;
}

/* One page. *after becomes the next one's, or NULL. */
static bool list_page(const request *q, const char **after, bool first)
{
    char uri[64], args[512];
    json_value reply, item;
    size_t cursor = 0;

    snprintf(uri, sizeof(uri), "/api/v1/%s", q->resource->name);
    snprintf(args, sizeof(args), "limit=200%s%s%s%s", q->tenant ? "&tenant=" : "",
             q->tenant ? q->tenant : "", *after ? "&after=" : "", *after ? *after : "");
    if (!operator_request(q->command, q->socket, AIQ_METHOD_GET, uri, args, (aiq_str){0},
                          q->pool, &reply)) {
        return false;
    }
    const json_value data = json_member(&reply, "data"), next = json_member(&reply, "next");
    while (json_each(&data, &cursor, NULL, &item)) {
        if (q->json) {
            printf("%s%.*s", first ? "" : ",\n ", (int)item.text.len, item.text.data);
        } else {
            print_item(q, &item);
        }
        first = false;
    }
    *after = next.type == JSON_STRING ? json_string(q->pool, &next).data : NULL;
    return true;
}

static int list(const request *q)
{
    const char *after = NULL;
    bool first = true;

    printf("%s", q->json ? "[" : "");
    do {
        if (!list_page(q, &after, first)) {
            return CLI_FAILED;
        }
        first = false;
    } while (after);
    printf("%s", q->json ? "]\n" : "");
    return CLI_OK;
}

static int one(const request *q)
{
    bool named = q->verb->word == WORD_ID;
    aiq_buf body = {0};
    json_value reply;
    char uri[256];

    snprintf(uri, sizeof(uri), "/api/v1/%s%s%s", q->resource->name, named ? "/" : "",
             named ? q->word : "");
    if (q->verb->method != AIQ_METHOD_DELETE && !make_body(q, &body)) {
        aiq_buf_free(&body);
        return cli_usage(q->command, "a limit is like 60r/m, 50000t/m or both with a comma");
    }
    bool ok = operator_request(q->command, q->socket, q->verb->method, uri, NULL,
                               (aiq_str){(const char *)body.data, body.len}, q->pool, &reply);
    if (ok) {
        print_reply(q, &reply);
    }
    aiq_buf_free(&body);
    return ok ? CLI_OK : CLI_FAILED;
}

/* The command line. */

enum { TENANT = 256, USER, ROLE, ADMIN, MODELS, EXPIRES, LIMIT, BUDGET, JSON, SOCKET };

static const struct option long_options[] = {
    {"tenant", required_argument, NULL, TENANT},
    {"user", required_argument, NULL, USER},
    {"role", required_argument, NULL, ROLE},
    {"admin", no_argument, NULL, ADMIN},
    {"models", required_argument, NULL, MODELS},
    {"expires", required_argument, NULL, EXPIRES},
    {"limit", required_argument, NULL, LIMIT},
    {"budget", required_argument, NULL, BUDGET},
    {"json", no_argument, NULL, JSON},
    {"admin-socket", required_argument, NULL, SOCKET},
    {"help", no_argument, NULL, 'h'},
    {0},
};

/* Where an option's value goes, and which verbs take it; NULL: every verb. */
static const char **place_of(request *q, int option, unsigned *takes)
{
    *takes = 0;
    switch (option) {
    case TENANT:
        *takes = TAKES_TENANT;
        return &q->tenant;
    case USER:
        *takes = TAKES_USER;
        return &q->user;
    case ROLE:
    case ADMIN:
        *takes = TAKES_ROLE;
        return &q->role;
    case MODELS:
        *takes = TAKES_MODELS;
        return &q->models;
    case EXPIRES:
        *takes = TAKES_EXPIRES;
        return &q->expires;
    case LIMIT:
        *takes = TAKES_LIMIT;
        return &q->limit;
    case BUDGET:
        *takes = TAKES_BUDGET;
        return &q->budget;
    default:
        return &q->socket;
    }
}

/* CLI_OK, and -1 where help was asked for. */
static int parse(int argc, char **argv, request *q)
{
    unsigned takes;
    int option;

    while ((option = cli_next_option(argc, argv, "h", long_options)) != -1) {
        if (option == '?') {
            return CLI_USAGE;
        }
        if (option == 'h') {
            return -1;
        }
        if (option == JSON) {
            q->json = true;
            continue;
        }
        const char **place = place_of(q, option, &takes);
        if (takes & ~q->verb->takes) {
            return cli_usage(argv[0], "%s does not go with this", argv[optind - 1]);
        }
        *place = option == ADMIN ? "admin" : optarg;
    }
    return CLI_OK;
}

static const verb *find_verb(const resource *r, const char *name)
{
    for (const verb *v = r->verbs; v->name; v++) {
        if (strcmp(v->name, name) == 0) {
            return v;
        }
    }
    return NULL;
}

static int run_request(request *q)
{
    if (q->verb->word != WORD_NONE &&
        (q->word == NULL || *q->word == '\0' || strlen(q->word) > WORD_MAX)) {
        return cli_usage(q->command, "the %s is missing",
                         strcmp(q->resource->columns[0], "id") == 0 && q->verb->word == WORD_ID
                             ? "id"
                             : "name");
    }
    q->pool = aiq_pool_new();
    int status = q->verb->method == AIQ_METHOD_GET ? list(q) : one(q);
    aiq_pool_free(q->pool);
    return status;
}

/* argv: the command, the verb, maybe a word, options. */
static int manage(const resource *r, int argc, char **argv)
{
    request q = {.resource = r, .socket = OPERATOR_SOCKET};
    char command[64];
    int skip = 1;

    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(r->help, stdout);
        return CLI_OK;
    }
    if (argc < 2) {
        return cli_usage(argv[0], "what shall be done?");
    }
    q.verb = find_verb(r, argv[1]);
    if (q.verb == NULL) {
        return cli_usage(argv[0], "there is no %s", argv[1]);
    }
    snprintf(command, sizeof(command), "%s %s", r->name, q.verb->name);
    q.command = command;
    if (q.verb->word != WORD_NONE && argc > 2 && argv[2][0] != '-') {
        q.word = argv[2];
        skip = 2;
    }
    argv[skip] = command;
    int status = parse(argc - skip, argv + skip, &q);
    if (status == -1) {
        fputs(r->help, stdout);
        return CLI_OK;
    }
    return status == CLI_OK ? run_request(&q) : status;
}

#define COMMON_HELP                                                                            \
    "  --json               print JSON\n"                                                      \
    "  --admin-socket PATH  the engine's (" OPERATOR_SOCKET ")\n"

int cli_keys(int argc, char **argv)
{
    static const char help[] =
        "Usage: aiq keys create [--admin | --role ROLE] [options]\n"
        "       aiq keys list [--tenant NAME]\n"
        "       aiq keys change ID --limit RATES\n"
        "       aiq keys revoke ID\n"
        "\n"
        "API keys. A new key is printed this once; the engine keeps only its hash. One that\n"
        "is revoked ends within a second, with the requests that run; a new limit holds as "
        "soon.\n"
        "\n"
        "  --role ROLE          admin, developer, user or viewer (that of --user, or user)\n"
        "  --admin              the same as --role admin\n"
        "  --tenant NAME        whose key (default)\n"
        "  --user NAME          the user it stands for (none: the key stands for itself)\n"
        "  --models A,B         the models it may use (all)\n"
        "  --expires TIME       its end, such as 2030-01-31T12:00:00Z (never)\n"
        "  --limit RATES        60r/m, 50000t/m or 60r/m,50000t/m: requests and tokens that "
        "it\n"
        "                       may use in a minute; empty: as many as it can (so)\n"
        "  --budget AMOUNT      200usd/month, 50000tokens/day: what it may spend (no "
        "budget)\n" COMMON_HELP "\n"
        "Example:\n"
        "  aiq keys create --admin\n";
    static const char *const columns[] = {"id",   "shown",  "tenant",     "user",
                                          "role", "models", "expires_at", NULL};
    static const verb verbs[] = {{"create", AIQ_METHOD_POST, WORD_NONE,
                                  TAKES_TENANT | TAKES_USER | TAKES_ROLE | TAKES_MODELS |
                                      TAKES_EXPIRES | TAKES_LIMIT | TAKES_BUDGET,
                                  NULL},
                                 {"list", AIQ_METHOD_GET, WORD_NONE, TAKES_TENANT, NULL},
                                 {"change", AIQ_METHOD_PATCH, WORD_ID, TAKES_LIMIT, NULL},
                                 {"revoke", AIQ_METHOD_DELETE, WORD_ID, 0, NULL},
                                 {0}};

    return manage(&(resource){"keys", help, columns, verbs}, argc, argv);
}

int cli_tenants(int argc, char **argv)
{
    static const char help[] = "Usage: aiq tenants create NAME\n"
                               "       aiq tenants list\n"
                               "       aiq tenants disable|enable NAME\n"
                               "       aiq tenants delete NAME\n"
                               "\n"
                               "Tenants. Deleting one deletes its users and keys.\n"
                               "\n" COMMON_HELP "\n"
                               "Example:\n"
                               "  aiq tenants create acme\n";
    static const char *const columns[] = {"name", "disabled", "created_at", NULL};
    static const verb verbs[] = {{"create", AIQ_METHOD_POST, WORD_NAME, 0, NULL},
                                 {"list", AIQ_METHOD_GET, WORD_NONE, 0, NULL},
                                 {"disable", AIQ_METHOD_PATCH, WORD_ID, 0, "\"disabled\":true"},
                                 {"enable", AIQ_METHOD_PATCH, WORD_ID, 0, "\"disabled\":false"},
                                 {"delete", AIQ_METHOD_DELETE, WORD_ID, 0, NULL},
                                 {0}};

    return manage(&(resource){"tenants", help, columns, verbs}, argc, argv);
}

int cli_users(int argc, char **argv)
{
    static const char help[] =
        "Usage: aiq users create NAME [--tenant NAME] [--role ROLE]\n"
        "       aiq users list [--tenant NAME]\n"
        "       aiq users change ID --role ROLE\n"
        "       aiq users disable|enable ID\n"
        "       aiq users delete ID\n"
        "\n"
        "Users of tenants. What a key may do is never more than what its user may.\n"
        "\n"
        "  --role ROLE          admin, developer, user or viewer (user)\n"
        "  --tenant NAME        whose user (default)\n" COMMON_HELP "\n"
        "Example:\n"
        "  aiq users create alice@example.com --tenant acme --role developer\n";
    static const char *const columns[] = {"id", "name", "tenant", "role", "disabled", NULL};
    static const verb verbs[] = {
        {"create", AIQ_METHOD_POST, WORD_NAME, TAKES_TENANT | TAKES_ROLE, NULL},
        {"list", AIQ_METHOD_GET, WORD_NONE, TAKES_TENANT, NULL},
        {"change", AIQ_METHOD_PATCH, WORD_ID, TAKES_ROLE, NULL},
        {"disable", AIQ_METHOD_PATCH, WORD_ID, 0, "\"disabled\":true"},
        {"enable", AIQ_METHOD_PATCH, WORD_ID, 0, "\"disabled\":false"},
        {"delete", AIQ_METHOD_DELETE, WORD_ID, 0, NULL},
        {0}};

    return manage(&(resource){"users", help, columns, verbs}, argc, argv);
}
