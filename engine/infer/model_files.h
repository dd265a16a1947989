/*
 * Where models lie: by a path, or in a folder by their name. NAME.gguf is in the folder under
 * this name, or in parts as NAME-00001-of-00003.gguf and so on, of which the first counts.
 */
#ifndef INFER_MODEL_FILES_H
#define INFER_MODEL_FILES_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

/*
 * The real path of the file. One that does not begin with / is looked up in the folder. With a
 * folder nothing outside of it is found, whatever links and dots say; folder may be NULL.
 * False, and one line in why. Blocks.
 */
bool model_file_find(const char *folder, const char *path, char real[PATH_MAX], char *why,
                     size_t size);

/* Does the name of a file end as that of part `part` of several does? Parts count from 1; 0:
 * any but the first. */
bool model_file_is_part(const char *name, unsigned part);

#endif
