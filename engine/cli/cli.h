/*
 * The `aiq` command: a table of subcommands, one file each. A subcommand parses its own
 * options, prints its own help and returns the exit status: 0, 1 (it failed) or 2 (it was
 * called wrong). Whatever goes wrong is one line on standard error.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CLI_OK, CLI_FAILED, CLI_USAGE };

typedef struct {
    const char *name;
    const char *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the subcommand's name */
} cli_command;

int cli_tokenize(int argc, char **argv);
int cli_generate(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_models(int argc, char **argv);
int cli_pull(int argc, char **argv); /* of models */
int cli_keys(int argc, char **argv);
int cli_tenants(int argc, char **argv);
int cli_users(int argc, char **argv);

/* "aiq COMMAND: message" on standard error; they return CLI_FAILED and CLI_USAGE. */
int cli_error(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int cli_usage(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The next option as getopt_long gives it, but what is wrong with it is reported in our
 * words: then '?'. Words that are no options are wrong, too. -1 at the end. */
int cli_next_option(int argc, char **argv, const char *short_options,
                    const struct option *options);

/* How far something is, drawn on standard error. NULL where that is no terminal: nobody
 * watches. Never stops it; arg says in a word or two what it is ["reading the model"]. */
typedef bool (*cli_progress)(void *arg, unsigned percent);
cli_progress cli_progress_bar(void);

/* The whole of a number within limits; false otherwise. */
bool cli_parse_uint(const char *text, uint64_t max, uint64_t *out);
bool cli_parse_float(const char *text, float max, float *out);

#endif
