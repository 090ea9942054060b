/* The clock of a node of the lab: a process that loads this (LD_PRELOAD, /etc/ld.so.preload) has a
 * time of day that is off by what a shared file says, and setting its clock changes that file and
 * nothing else. x86-64 Linux, glibc.
 *
 * The file is 8 bytes: nanoseconds to add, signed, in the machine's byte order. Every process that
 * has it mapped sees a change at once.
 *
 * Go's runtime asks the vDSO for the time and not the C library, so it is the vDSO's functions that
 * are replaced, in this process's own copy of the page.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the jump that is written into the vDSO is x86-64 code"
#endif

#define SECOND 1000000000LL
#define SLICE (SECOND / 5)

static volatile int64_t unshifted = 0;
static volatile int64_t *shift = &unshifted;

static long ask_kernel(long number, long first, long second) {
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(first), "S"(second)
                     : "rcx", "r11", "memory");
    return result;
}

static int64_t in_ns(const struct timespec *at) { return at->tv_sec * SECOND + at->tv_nsec; }

static struct timespec from_ns(int64_t ns) {
    struct timespec at = {ns / SECOND, ns % SECOND};
    if (at.tv_nsec < 0) {
        at.tv_nsec += SECOND;
        at.tv_sec -= 1;
    }
    return at;
}

static int64_t machine_ns(void) {
    struct timespec at;
    ask_kernel(SYS_clock_gettime, CLOCK_REALTIME, (long)&at);
    return in_ns(&at);
}

static int is_time_of_day(clockid_t clock) {
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

/* --- reading: these take the place of the vDSO's own -------------------------------------------- */

static int shifted_gettime(clockid_t clock, struct timespec *at) {
    long failed = ask_kernel(SYS_clock_gettime, clock, (long)at);
    if (!failed && is_time_of_day(clock)) *at = from_ns(in_ns(at) + *shift);
    return (int)failed;
}

static int shifted_gettimeofday(struct timeval *at, void *zone) {
    if (zone) ask_kernel(SYS_gettimeofday, 0, (long)zone);
    if (at) {
        struct timespec now = from_ns(machine_ns() + *shift);
        at->tv_sec = now.tv_sec;
        at->tv_usec = now.tv_nsec / 1000;
    }
    return 0;
}

static time_t shifted_time(time_t *at) {
    time_t now = from_ns(machine_ns() + *shift).tv_sec;
    if (at) *at = now;
    return now;
}

static void divert(void *vdso, const char *name, void *target) {
    /* movabs rax, target; jmp rax */
    unsigned char jump[12] = {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0};
    void *place = dlsym(vdso, name);
    if (!place) abort();
    memcpy(jump + 2, &target, sizeof target);
    memcpy(place, jump, sizeof jump);
}

/* All of the vDSO: the kernel lets nobody change a part of it (mm/mmap.c, special_mapping_split). */
static void protect(int how) {
    const ElfW(Ehdr) *image = (const void *)getauxval(AT_SYSINFO_EHDR);
    size_t size = image->e_shoff + image->e_shnum * image->e_shentsize;
    if (mprotect((void *)image, size, how)) abort();
}

__attribute__((constructor)) static void take_over(void) {
    const char *path = getenv("PIFLASH_LAB_CLOCK");
    int fd = open(path ? path : "/lab/clock", O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *file = mmap(NULL, sizeof *shift, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
    /* A lab whose clocks do not work must not look like one whose clocks do. */
    if (file == MAP_FAILED || !vdso) abort();
    shift = file;
    protect(PROT_READ | PROT_WRITE | PROT_EXEC);
    divert(vdso, "__vdso_clock_gettime", shifted_gettime);
    divert(vdso, "__vdso_gettimeofday", shifted_gettimeofday);
    divert(vdso, "__vdso_time", shifted_time);
    protect(PROT_READ | PROT_EXEC);
}

/* --- setting: the file, never the machine's clock ----------------------------------------------- */

static int set_to(int64_t ns) {
    if (shift == &unshifted) {
        errno = EPERM;
        return -1;
    }
    *shift = ns - machine_ns();
    return 0;
}

int clock_settime(clockid_t clock, const struct timespec *at) {
    if (clock != CLOCK_REALTIME || at->tv_nsec < 0 || at->tv_nsec >= SECOND) {
        errno = EINVAL;
        return -1;
    }
    return set_to(in_ns(at));
}

int settimeofday(const struct timeval *at, const struct timezone *zone) {
    (void)zone;
    return at ? set_to(at->tv_sec * SECOND + at->tv_usec * 1000) : 0;
}

/* The kernel's own word on NTP is about the machine. A node has none; it goes by a file. */
static int unsynchronised(struct timex *about) {
    if (about->modes) {
        errno = EPERM;
        return -1;
    }
    memset(about, 0, sizeof *about);
    about->status = STA_UNSYNC;
    return TIME_ERROR;
}

int adjtimex(struct timex *about) { return unsynchronised(about); }

int ntp_adjtime(struct timex *about) { return unsynchronised(about); }

int clock_adjtime(clockid_t clock, struct timex *about) {
    (void)clock;
    return unsynchronised(about);
}

/* --- waiting until a time of day ---------------------------------------------------------------- */

/* Python's locks wait so up to 3.10. The kernel knows only the machine's clock; and what it does
 * when a clock is set back, waiting on, has to be seen here too. Hence the slices. */
static int wait_until(sem_t *gate, const struct timespec *at) {
    static int (*wait)(sem_t *, const struct timespec *);
    if (!wait) wait = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
    for (;;) {
        int64_t now = machine_ns(), left = in_ns(at) - (now + *shift);
        struct timespec slice = from_ns(now + (left < SLICE ? left : SLICE));
        int failed = wait(gate, &slice);
        if (!failed || errno != ETIMEDOUT || left <= SLICE) return failed;
    }
}

int sem_timedwait(sem_t *gate, const struct timespec *at) { return wait_until(gate, at); }

int sem_clockwait(sem_t *gate, clockid_t clock, const struct timespec *at) {
    static int (*wait)(sem_t *, clockid_t, const struct timespec *);
    if (clock == CLOCK_REALTIME) return wait_until(gate, at);
    if (!wait)
        wait = (int (*)(sem_t *, clockid_t, const struct timespec *))dlsym(RTLD_NEXT,
                                                                         "sem_clockwait");
    return wait(gate, clock, at);
}
