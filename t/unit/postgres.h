/*
 * A PostgreSQL cluster for the tests of a program; see t/lib/postgres.sh.
 */

#ifndef UNIT_POSTGRES_H
#define UNIT_POSTGRES_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    char folder[32];
    unsigned n_databases;
} postgres;

/* start, kill, pause, resume, stop. */
static inline bool postgres_do(const postgres *p, const char *what)
{
    char command[128];

    snprintf(command, sizeof(command), "t/lib/postgres.sh %s %s", what, p->folder);
    return WEXITSTATUS(system(command)) == 0;
}

/* False: there is no PostgreSQL here. */
static inline bool postgres_start(postgres *p)
{
    *p = (postgres){.folder = "/tmp/aiq-pg-XXXXXX"};
    if (mkdtemp(p->folder) == NULL || chmod(p->folder, 0755) != 0) {
        abort();
    }
    return postgres_do(p, "start");
}

static inline void postgres_end(postgres *p)
{
    char command[128];

    postgres_do(p, "stop");
    snprintf(command, sizeof(command), "rm -rf %s", p->folder);
    if (system(command) != 0) {
        abort();
    }
}

/* Runs SQL as the server's owner, beside the store. */
static inline bool postgres_run(const postgres *p, const char *database, const char *sql)
{
    char url[128];

    snprintf(url, sizeof(url), "postgres://aiq@/%s?host=%s/pg", database, p->folder);
    PGconn *conn = PQconnectdb(url);
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    PQclear(result);
    PQfinish(conn);
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

/* The URL of a new, empty database t1, t2, … */
static inline void postgres_database(postgres *p, char *url, size_t size)
{
    char command[64];

    snprintf(command, sizeof(command), "CREATE DATABASE t%u", ++p->n_databases);
    if (!postgres_run(p, "postgres", command)) {
        abort();
    }
    snprintf(url, size, "postgres://aiq@/t%u?host=%s/pg", p->n_databases, p->folder);
}

#endif
