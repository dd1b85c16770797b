/* tests/support/disk_model.c - folders and files as they are in memory, and what of that is on the disk. */
#include "tests/support/disk_model.h"

#include "tests/support/test.h"

#include "tests/support/draws.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 64, NAMES = 16, PENDING = 64, FDS = 1024, NODES = 4096 };

typedef struct node node;
typedef struct entry {
    char name[64];
    node *to; /* NULL: free */
} entry;

/* An entry gets another node, NULL: none; with `from` that name loses it, or gets `swapped`. */
typedef struct change {
    char name[64], from[64];
    node *to, *swapped;
} change;

struct node {
    bool is_folder;
    /* a file: now, and on the disk */
    char *data, *kept;
    size_t n, n_kept;
    /* a folder: on the disk, and what has been done since */
    entry entry[NAMES];
    change pending[PENDING];
    int32_t n_pending;
};

static struct {
    disk_watch watch;
    bool on, inside; /* inside: the watcher's own calls */
    node *of_fd[FDS];
    node *all[NODES];
    int32_t n_nodes;
    node *root;
} disk;

/* ---- nodes ---- */

static node *new_node(bool is_folder)
{
    node *n = calloc(1, sizeof *n);
    DML_CHECK(n && disk.n_nodes < NODES);
    n->is_folder = is_folder;
    return disk.all[disk.n_nodes++] = n;
}

static entry *find(entry *list, const char *name)
{
    for (int32_t i = 0; i < NAMES; i++)
        if (list[i].to && strcmp(list[i].name, name) == 0) return &list[i];
    return NULL;
}

static void put(entry *list, const char *name, node *to)
{
    entry *e = find(list, name);
    for (int32_t i = 0; !e && i < NAMES; i++)
        if (!list[i].to) e = &list[i];
    DML_CHECK(e);
    snprintf(e->name, sizeof e->name, "%s", name);
    e->to = to;
}

/* The folder after the first `n` changes that are not on the disk. */
static void entries_after(const node *folder, int32_t n, entry out[NAMES])
{
    memcpy(out, folder->entry, sizeof folder->entry);
    for (int32_t i = 0; i < n; i++) {
        const change *c = &folder->pending[i];
        put(out, c->name, c->to);
        if (c->from[0]) put(out, c->from, c->swapped);
    }
}

static node *look_up(const node *folder, const char *name)
{
    entry now[NAMES];
    if (strcmp(name, ".") == 0) return (node *)(uintptr_t)folder;
    entries_after(folder, folder->n_pending, now);
    const entry *e = find(now, name);
    return e ? e->to : NULL;
}

static void note(node *folder, const char *name, node *to, const char *from, node *swapped)
{
    DML_CHECK(folder->n_pending < PENDING && strlen(name) < sizeof folder->entry->name);
    change *c = &folder->pending[folder->n_pending++];
    *c = (change){.to = to, .swapped = swapped};
    snprintf(c->name, sizeof c->name, "%s", name);
    snprintf(c->from, sizeof c->from, "%s", from);
}

static void grow(node *file, size_t n)
{
    if (n <= file->n) return;
    file->data = realloc(file->data, n);
    DML_CHECK(file->data);
    memset(file->data + file->n, 0, n - file->n);
    file->n = n;
}

static void sync_node(node *n)
{
    if (n->is_folder && !disk.watch.folder_sync_lies) {
        entry now[NAMES];
        entries_after(n, n->n_pending, now);
        memcpy(n->entry, now, sizeof now);
        n->n_pending = 0;
    } else if (!n->is_folder && !disk.watch.file_sync_lies) {
        n->kept = realloc(n->kept, n->n + 1);
        DML_CHECK(n->kept);
        if (n->n > 0) memcpy(n->kept, n->data, n->n);
        n->n_kept = n->n;
    }
}

/* ---- the watch ---- */

void disk_begin(const disk_watch *watch)
{
    memset(&disk, 0, sizeof disk);
    disk.watch = *watch;
    disk.root = new_node(true);
    disk.on = true;
}

void disk_end(void)
{
    for (int32_t i = 0; i < disk.n_nodes; i++) {
        free(disk.all[i]->data);
        free(disk.all[i]->kept);
        free(disk.all[i]);
    }
    memset(&disk, 0, sizeof disk);
}

static node *node_of(int fd)
{
    return disk.on && !disk.inside && fd >= 0 && fd < FDS ? disk.of_fd[fd] : NULL;
}

static void set_fd(int fd, node *n)
{
    if (disk.on && !disk.inside && fd >= 0 && fd < FDS) disk.of_fd[fd] = n;
}

static void changed(void)
{
    disk.inside = true;
    disk.watch.after(disk.watch.context);
    disk.inside = false;
}

/* ---- a power cut ---- */

static void write_file(int dir, const char *name, const node *file)
{
    const size_t length[] = {file->n_kept, file->n, 0};
    const bool whole =
        file->n == file->n_kept && (file->n == 0 || memcmp(file->data, file->kept, file->n) == 0);
    const size_t n = length[whole ? 0 : below(file->n_kept > 0 ? 2 : 3)];
    char *bytes = calloc(1, n + 1);
    DML_CHECK(bytes);
    for (size_t at = 0; at < n; at += BLOCK) {
        const size_t left = n - at < BLOCK ? n - at : BLOCK;
        const bool fresh = at + left <= file->n && !whole && below(2) == 0;
        if (fresh)
            memcpy(bytes + at, file->data + at, left);
        else if (at < file->n_kept)
            memcpy(bytes + at, file->kept + at,
                   file->n_kept - at < left ? file->n_kept - at : left);
    }
    const int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL, 0644);
    DML_CHECK(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
    close(fd);
    free(bytes);
}

/* Half of the time all of it has reached the disk: what is behind in one folder is then seen against the other. */
static int32_t how_many(int32_t pending)
{
    return below(2) == 0 ? pending : below(pending + 1);
}

static void write_folder(int dir, const node *folder)
{
    entry now[NAMES];
    entries_after(folder, how_many(folder->n_pending), now);
    for (int32_t i = 0; i < NAMES; i++) {
        if (!now[i].to) continue;
        if (!now[i].to->is_folder) {
            write_file(dir, now[i].name, now[i].to);
            continue;
        }
        DML_CHECK(mkdirat(dir, now[i].name, 0777) == 0);
        const int fd = openat(dir, now[i].name, O_RDONLY | O_DIRECTORY);
        DML_CHECK(fd >= 0);
        write_folder(fd, now[i].to);
        close(fd);
    }
}

void disk_power_cut(const char *to)
{
    const int fd = open(to, O_RDONLY | O_DIRECTORY);
    DML_CHECK(fd >= 0);
    write_folder(fd, disk.root);
    close(fd);
}

/* ---- the calls ---- */

int __real_open(const char *path, int flags, ...);
int __real_openat(int dir, const char *path, int flags, ...);
ssize_t __real_write(int fd, const void *from, size_t bytes);
int __real_fsync(int fd);
int __real_fallocate(int fd, int mode, off_t offset, off_t bytes);
int __real_mkdirat(int dir, const char *path, mode_t mode);
int __real_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __real_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
int __real_unlinkat(int dir, const char *path, int flags);

int __wrap_open(const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
ssize_t __wrap_write(int fd, const void *from, size_t bytes);
int __wrap_fsync(int fd);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t bytes);
int __wrap_mkdirat(int dir, const char *path, mode_t mode);
int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to);
int __wrap_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
int __wrap_unlinkat(int dir, const char *path, int flags);

#define MODE(flags, mode)                \
    do {                                 \
        if ((flags)&O_CREAT) {           \
            va_list args;                \
            va_start(args, flags);       \
            mode = va_arg(args, mode_t); \
            va_end(args);                \
        }                                \
    } while (0)

int __wrap_open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    MODE(flags, mode);
    const int fd = __real_open(path, flags, mode);
    set_fd(fd, disk.on && strcmp(path, disk.watch.root) == 0 ? disk.root : NULL);
    return fd;
}

int __wrap_openat(int dir, const char *path, int flags, ...)
{
    mode_t mode = 0;
    MODE(flags, mode);
    node *folder = node_of(dir), *n = folder ? look_up(folder, path) : NULL;
    const int fd = __real_openat(dir, path, flags, mode);
    const bool made = folder && fd >= 0 && !n;
    if (made) note(folder, path, n = new_node(false), "", NULL);
    set_fd(fd, n);
    if (made) changed();
    return fd;
}

ssize_t __wrap_write(int fd, const void *from, size_t bytes)
{
    node *file = node_of(fd);
    const off_t at = file ? lseek(fd, 0, SEEK_CUR) : 0;
    const ssize_t n = __real_write(fd, from, bytes);
    if (file && n > 0) {
        grow(file, (size_t)(at + n));
        memcpy(file->data + at, from, (size_t)n);
        changed();
    }
    return n;
}

int __wrap_fsync(int fd)
{
    node *n = node_of(fd);
    const int got = n ? 0 : __real_fsync(fd); /* what is watched needs no disk */
    if (n) sync_node(n);
    if (n) changed();
    return got;
}

int __wrap_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    node *file = node_of(fd);
    const int got = __real_fallocate(fd, mode, offset, bytes);
    if (file && got == 0) grow(file, (size_t)(offset + bytes));
    if (file && got == 0) changed();
    return got;
}

int __wrap_mkdirat(int dir, const char *path, mode_t mode)
{
    node *folder = node_of(dir);
    const int got = __real_mkdirat(dir, path, mode);
    if (folder && got == 0) note(folder, path, new_node(true), "", NULL);
    if (folder && got == 0) changed();
    return got;
}

int __wrap_renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    return __wrap_renameat2(from_dir, from, to_dir, to, 0);
}

int __wrap_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    node *folder = node_of(from_dir);
    DML_CHECK(folder == node_of(to_dir)); /* between folders: not known here */
    node *moved = folder ? look_up(folder, from) : NULL,
         *there = folder ? look_up(folder, to) : NULL;
    const int got = __real_renameat2(from_dir, from, to_dir, to, flags);
    if (folder && got == 0) {
        note(folder, to, moved, from, flags & RENAME_EXCHANGE ? there : NULL);
        changed();
    }
    return got;
}

int __wrap_unlinkat(int dir, const char *path, int flags)
{
    node *folder = node_of(dir);
    const int got = __real_unlinkat(dir, path, flags);
    if (folder && got == 0) note(folder, path, NULL, "", NULL);
    if (folder && got == 0) changed();
    return got;
}
