#include "infer/model_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX     ".gguf"
#define SUFFIX_LEN (sizeof(SUFFIX) - 1)

/* Of "-00001-of-00003.gguf". */
#define PART_LEN 20

bool model_file_is_part(const char *name, unsigned part)
{
    size_t len = strlen(name);
    unsigned no, of;
    int end = 0;

    if (len < PART_LEN ||
        sscanf(name + len - PART_LEN, "-%5u-of-%5u" SUFFIX "%n", &no, &of, &end) != 2 ||
        end != PART_LEN) {
        return false;
    }
    return part > 0 ? no == part : no > 1;
}

/* Is it the name of the first part of the model whose name is the first len bytes of stem? */
static bool is_first_part(const char *name, const char *stem, size_t len)
{
    return strncmp(name, stem, len) == 0 && strlen(name + len) == PART_LEN &&
           model_file_is_part(name + len, 1);
}

/* NAME.gguf is not there: writes the first of its parts over path, if that is. */
static bool find_first_part(char path[PATH_MAX])
{
    char *slash = strrchr(path, '/'), *name = slash + 1;
    size_t len = strlen(name), stem = len - SUFFIX_LEN;
    const struct dirent *entry;
    bool found = false;
    DIR *dir;

    if (len < SUFFIX_LEN || strcmp(name + stem, SUFFIX) != 0 ||
        strlen(path) + PART_LEN >= PATH_MAX) {
        return false;
    }
    *slash = '\0';
    dir = opendir(*path != '\0' ? path : "/");
    *slash = '/';
    while (dir != NULL && !found && (entry = readdir(dir)) != NULL) {
        found = is_first_part(entry->d_name, name, stem);
        if (found) {
            memcpy(name + stem, entry->d_name + stem, PART_LEN + 1);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return found;
}

static bool is_below(const char *folder, const char *real, char *why, size_t size)
{
    char base[PATH_MAX];

    if (realpath(folder, base) == NULL) {
        snprintf(why, size, "--models: %s", strerror(errno));
        return false;
    }
    size_t n = strlen(base);
    if (strncmp(real, base, n) != 0 || (real[n] != '/' && n > 1)) {
        snprintf(why, size, "it does not lie below --models");
        return false;
    }
    return true;
}

bool model_file_find(const char *folder, const char *path, char real[PATH_MAX], char *why,
                     size_t size)
{
    char joined[PATH_MAX];
    int n;

    if (path[0] != '/' && folder == NULL) {
        snprintf(why, size, "it has no path, and the engine has no --models");
        return false;
    }
    n = snprintf(joined, sizeof(joined), "%s%s%s", path[0] != '/' ? folder : "",
                 path[0] != '/' ? "/" : "", path);
    if ((size_t)n >= sizeof(joined)) {
        snprintf(why, size, "the path is too long");
        return false;
    }
    if (realpath(joined, real) == NULL &&
        (errno != ENOENT || !find_first_part(joined) || realpath(joined, real) == NULL)) {
        snprintf(why, size, "%s", strerror(errno));
        return false;
    }
    return folder == NULL || is_below(folder, real, why, size);
}
