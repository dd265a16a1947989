#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const cli_command commands[] = {
    {"keys", "make, list and revoke API keys", cli_keys},
    {"tenants", "manage tenants", cli_tenants},
    {"users", "manage tenants' users", cli_users},
    {"generate", "continue a prompt with a local model", cli_generate},
    {"models", "list the models of a folder, and get one", cli_models},
    {"bench", "measure a local model", cli_bench},
    {"tokenize", "turn text into a model's token ids", cli_tokenize},
};

#define N_COMMANDS (sizeof(commands) / sizeof(*commands))

static void print_help(void)
{
    printf("Usage: aiq COMMAND [options]\n"
           "\n"
           "Commands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        printf("  %-12s %s\n", commands[i].name, commands[i].summary);
    }
    printf("\n"
           "\"aiq COMMAND --help\" explains a command. Exit status: 0 on success, 1 if the\n"
           "command failed, 2 if it was called wrong.\n");
}

static void complain(const char *command, const char *format, va_list args, const char *end)
{
    fprintf(stderr, "aiq %s: ", command);
    vfprintf(stderr, format, args);
    fprintf(stderr, "%s\n", end);
}

int cli_error(const char *command, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    complain(command, format, args, "");
    va_end(args);
    return CLI_FAILED;
}

int cli_usage(const char *command, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    complain(command, format, args, " (see --help)");
    va_end(args);
    return CLI_USAGE;
}

int cli_next_option(int argc, char **argv, const char *short_options,
                    const struct option *options)
{
    int word = optind > 0 ? optind : 1, c;

    opterr = 0;
    c = getopt_long(argc, argv, short_options, options, NULL);
    if (c == ':') {
        cli_usage(argv[0], "%s needs a value", argv[optind - 1]);
        return '?';
    }
    if (c == '?') {
        cli_usage(argv[0], "unknown option %s", argv[word]);
    }
    if (c == -1 && optind < argc) {
        cli_usage(argv[0], "unexpected argument %s", argv[optind]);
        return '?';
    }
    return c;
}

static bool draw_bar(void *arg, unsigned percent)
{
    static const char full[] = "########################################";
    const int width = sizeof(full) - 1, done = (int)percent * width / 100;

    if (percent < 100) {
        fprintf(stderr, "\r%s [%.*s%*s] %3u %%",
                arg != NULL ? (const char *)arg : "reading the model", done, full, width - done,
                "", percent);
    } else {
        fputs("\r\033[K", stderr); /* the line is free again */
    }
    return true;
}

cli_progress cli_progress_bar(void)
{
    return isatty(STDERR_FILENO) ? draw_bar : NULL;
}

bool cli_parse_uint(const char *text, uint64_t max, uint64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && *out <= max;
}

bool cli_parse_float(const char *text, float max, float *out)
{
    char *end;

    *out = strtof(text, &end);
    return end != text && *end == '\0' && *out >= 0 && *out <= max;
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "aiq: no command (see aiq --help)\n");
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help();
        return CLI_OK;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    fprintf(stderr, "aiq: unknown command %s (see aiq --help)\n", argv[1]);
    return CLI_USAGE;
}

int main(int argc, char **argv)
{
    int status = dispatch(argc, argv);

    if ((fflush(stdout) != 0 || ferror(stdout)) && status == CLI_OK) {
        fprintf(stderr, "aiq: writing: %s\n", strerror(errno));
        return CLI_FAILED;
    }
    return status;
}
