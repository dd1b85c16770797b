/* tests/support/disk_model.h - what a folder may look like after the power went.
 *
 *   write, fallocate         stay in memory until fsync of the file: then each block of a file may have reached the disk, or not
 *   mkdir, rename, unlink    stay in memory until fsync of the folder: then a first part of them may have reached the disk, in the
 *                            order in which they were made; folders know nothing of each other's order
 *
 * That is less than today's file systems promise, so whoever survives it survives them.  Calls of the program are watched by the
 * linker's --wrap (tests/engine/CMakeLists.txt); they are still carried out.  One folder at a time, by one thread.
 */
#ifndef DML_TEST_DISK_MODEL_H
#define DML_TEST_DISK_MODEL_H

#include <stdbool.h>

typedef struct disk_watch {
    const char *root; /* an empty folder; borrowed until disk_end */
    void (*after)(
        void *context); /* after each call that changes something; its own calls are not watched */
    void *context;
    bool file_sync_lies, folder_sync_lies; /* fsync returns and has done nothing */
} disk_watch;

void disk_begin(const disk_watch *watch);
void disk_end(void);

/* Makes one of the states that a power cut now may leave, in the empty folder `to`; which one: tests/support/draws.h's row. */
void disk_power_cut(const char *to);

#endif
