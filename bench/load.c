/* load - SMTP clients on loopback, all in one thread.
 *
 *   load PORT MODE [NAME=VALUE ...]
 *
 * Modes, and what a session does between EHLO and QUIT:
 *   reject   one unknown recipient
 *   accept   one message
 *   reuse    `messages` messages
 *   dict     `recipients` unknown recipients
 *   mix      one recipient, unknown in `unknown` of 100 sessions; else a message
 *   hold     nothing: `count` sessions are opened and stay, the line {"held":N}
 *            is printed, and end of file on standard input ends them
 *
 * Values: clients (at once), seconds (no session is begun after), count (of
 * sessions, 0 is no limit), size (of a message), messages, recipients, unknown,
 * sources (addresses 127.1.x.y), table (known users user00000...), seed,
 * awake (1: ask the kernel over and over in place of sleeping, so that no server
 * has to wake this process; over a network none would).
 * Prints one JSON object: counts, replies by stage and code, latency (of a
 * session; with `reuse` of a message) in milliseconds. Called by
 * bench/tools.py. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum stage { GREETING, EHLO, MAIL, RCPT, DATA, DOT, QUIT, IDLE, STAGES };
static const char *const STAGE[] = {"greeting", "ehlo", "mail", "rcpt",
                                    "data",     "dot",  "quit", "idle"};
static const char *const MODES[] = {"reject", "accept", "reuse",
                                    "dict",   "mix",    "hold", 0};
enum mode { REJECT, ACCEPT, REUSE, DICT, MIX, HOLD };

struct client {
    int fd; /* -1: not in use */
    enum stage stage;
    int unknown;        /* this session asks for unknown recipients */
    int asked, sent;    /* recipients in the transaction, messages so far */
    double began, message_began, active;
    const char *out;    /* what the socket did not take yet */
    size_t left;
    size_t in_length;
    char in[2048], command[256];
};

static struct {
    long clients, seconds, count, size, messages, recipients, unknown, sources,
        table, seed, awake;
} want = {16, 0, 0, 2048, 50, 20, 80, 64, 10000, 1, 0};

static enum mode mode;
static int port, ep;
static struct client *all;
static char *message;
static size_t message_length;
static long begun, ended, good, failed, early, dropped, held, messages, accepted,
    refused;
static long codes[STAGES][600];
static double *latency;
static size_t latencies, latency_room;
static char first_error[160];
static uint64_t dice;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static unsigned throw(unsigned sides) /* splitmix64 */
{
    uint64_t z = dice += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return (z ^ (z >> 31)) % sides;
}

static void note(double seconds)
{
    if (latencies == latency_room) {
        latency_room = latency_room ? 2 * latency_room : 1 << 16;
        latency = realloc(latency, latency_room * sizeof *latency);
    }
    latency[latencies++] = seconds * 1e3;
}

static void complain(const char *format, ...)
{
    va_list arguments;
    if (first_error[0])
        return;
    va_start(arguments, format);
    vsnprintf(first_error, sizeof first_error, format, arguments);
    va_end(arguments);
}

static void end(struct client *c, int well)
{
    close(c->fd);
    c->fd = -1;
    ended++;
    if (!well) {
        failed++;
        return;
    }
    good++;
    if (mode != REUSE)
        note(now() - c->began);
}

static void push(struct client *c)
{
    while (c->left) {
        ssize_t sent = send(c->fd, c->out, c->left, MSG_NOSIGNAL);
        if (sent < 0)
            break; /* full, or lost: then the next read tells */
        c->out += sent;
        c->left -= sent;
        c->active = now();
    }
}

static void watch(struct client *c, int writing)
{
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0),
                                .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &event);
}

static void transmit(struct client *c, enum stage stage, const char *data,
                     size_t length)
{
    c->stage = stage;
    c->out = data;
    c->left = length;
    push(c);
    if (c->left)
        watch(c, 1);
}

static void command(struct client *c, enum stage stage, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(c->command, sizeof c->command, format, arguments);
    va_end(arguments);
    transmit(c, stage, c->command, length);
}

static void recipient(struct client *c)
{
    if (c->unknown)
        command(c, RCPT, "RCPT TO:<nobody%06u@example.test>\r\n", throw(1000000));
    else
        command(c, RCPT, "RCPT TO:<user%05u@example.test>\r\n", throw(want.table));
}

static void mail(struct client *c)
{
    c->message_began = now();
    c->asked = 0;
    command(c, MAIL, "MAIL FROM:<sender%03u@client.test>\r\n", throw(1000));
}

static void quit(struct client *c)
{
    command(c, QUIT, "QUIT\r\n");
}

static int expected(struct client *c, int code)
{
    static const int EXPECTED[] = {220, 250, 250, 250, 354, 250, 221, 0};
    if (c->stage == RCPT && c->unknown)
        return code >= 500;
    return code == EXPECTED[c->stage];
}

/* One whole reply has come; whether the session goes on. */
static int advance(struct client *c, int code)
{
    codes[c->stage][code]++;
    if (!expected(c, code)) {
        complain("%d at %s", code, STAGE[c->stage]);
        end(c, 0);
        return 0;
    }
    switch (c->stage) {
    case GREETING:
        command(c, EHLO, "EHLO client.test\r\n");
        break;
    case EHLO:
        if (mode == HOLD) {
            c->stage = IDLE;
            held++;
        } else
            mail(c);
        break;
    case MAIL:
        recipient(c);
        break;
    case RCPT:
        c->asked++;
        if (!c->unknown) {
            accepted++;
            command(c, DATA, "DATA\r\n");
            break;
        }
        refused++;
        if (mode == DICT && c->asked < want.recipients)
            recipient(c);
        else
            quit(c);
        break;
    case DATA:
        transmit(c, DOT, message, message_length);
        break;
    case DOT:
        messages++;
        c->sent++;
        if (mode == REUSE) {
            note(now() - c->message_began);
            if (c->sent < want.messages) {
                mail(c);
                break;
            }
        }
        quit(c);
        break;
    default: /* QUIT */
        end(c, 1);
        return 0;
    }
    return 1;
}

static void lost(struct client *c, const char *why)
{
    if (c->unknown && c->asked && c->stage == QUIT) {
        early++; /* a server may hang up after its refusal */
        end(c, 1);
        return;
    }
    if (c->stage == IDLE) {
        held--;
        dropped++;
    }
    complain("closed at %s: %s", STAGE[c->stage], why);
    end(c, 0);
}

static void hear(struct client *c)
{
    ssize_t got = recv(c->fd, c->in + c->in_length, sizeof c->in - c->in_length, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        lost(c, got ? strerror(errno) : "end of file");
        return;
    }
    c->active = now();
    c->in_length += got;
    char *line = c->in, *stop = c->in + c->in_length, *newline;
    while ((newline = memchr(line, '\n', stop - line))) {
        int last = newline - line >= 4 && line[3] != '-', code = atoi(line);
        line = newline + 1;
        if (!last)
            continue;
        if (code < 200 || code > 599) {
            complain("no reply code at %s", STAGE[c->stage]);
            end(c, 0);
            return;
        }
        if (!advance(c, code))
            return;
    }
    c->in_length = stop - line;
    memmove(c->in, line, c->in_length);
    if (c->in_length == sizeof c->in) {
        complain("a line without end at %s", STAGE[c->stage]);
        end(c, 0);
    }
}

static void begin(struct client *c)
{
    int one = 1;
    long source = begun++ % want.sources;
    struct sockaddr_in from = {.sin_family = AF_INET}, to = from;
    from.sin_addr.s_addr = htonl(0x7f010001u + source / 250 * 256 + source % 250);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port);
    memset(c, 0, offsetof(struct client, in));
    c->began = c->active = now();
    c->unknown = mode == REJECT || mode == DICT ||
                 (mode == MIX && throw(100) < want.unknown);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        perror("load: socket");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) {
        perror("load: bind");
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &event);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        lost(c, strerror(errno));
}

static void compose(void)
{
    static const char HEAD[] = "From: <sender@client.test>\r\n"
                               "To: <user@example.test>\r\n"
                               "Subject: load\r\n\r\n";
    size_t size = want.size < 128 ? 128 : want.size;
    message = malloc(size + 8);
    message_length = sizeof HEAD - 1;
    memcpy(message, HEAD, message_length);
    while (message_length + 2 < size) {
        size_t room = size - message_length - 2, length = room < 76 ? room : 76;
        memset(message + message_length, 'x', length);
        memcpy(message + message_length + length, "\r\n", 2);
        message_length += length + 2;
    }
    memcpy(message + message_length, ".\r\n", 3);
    message_length += 3;
}

#define PATIENCE 30.0

static void abandon_stuck(long slots)
{
    for (long i = 0; i < slots; i++) {
        struct client *c = &all[i];
        if (c->fd >= 0 && c->stage != IDLE && now() - c->active > PATIENCE) {
            complain("nothing for %.0f s at %s", PATIENCE, STAGE[c->stage]);
            end(c, 0);
        }
    }
}

static int may_begin(double began)
{
    return (!want.count || begun < want.count) &&
           (!want.seconds || now() - began < want.seconds);
}

/* Handles one round of events; whether standard input has ended. */
static int turn(void)
{
    struct epoll_event events[256];
    int patience = want.awake ? 0 : 100; /* milliseconds */
    int over = 0, count = epoll_wait(ep, events, 256, patience);
    if (!count && want.awake)
        sched_yield(); /* the backend may be on this core */
    for (int i = 0; i < count; i++) {
        struct client *c = events[i].data.ptr;
        if (!c) {
            char nothing[64];
            over |= read(0, nothing, sizeof nothing) <= 0;
            continue;
        }
        if (c->fd >= 0 && events[i].events & EPOLLOUT) {
            push(c);
            if (!c->left)
                watch(c, 0);
        }
        if (c->fd >= 0 && events[i].events & ~EPOLLOUT)
            hear(c);
    }
    return over;
}

static double run_load(void)
{
    double began = now(), swept = began;
    do {
        for (long i = 0; i < want.clients && may_begin(began); i++)
            if (all[i].fd < 0)
                begin(&all[i]);
        turn();
        if (now() - swept > 1) {
            swept = now();
            abandon_stuck(want.clients);
        }
    } while (ended < begun || may_begin(began));
    return now() - began;
}

static double run_hold(void)
{
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = 0};
    double began = now(), opened = 0;
    epoll_ctl(ep, EPOLL_CTL_ADD, 0, &input);
    for (;;) {
        while (begun < want.count && begun - held - ended < want.clients)
            begin(&all[begun]);
        if (turn())
            return opened;
        if (opened == 0 && held + ended >= want.count) {
            opened = now() - began;
            printf("{\"held\":%ld}\n", held);
            fflush(stdout);
        }
        abandon_stuck(begun);
    }
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double share)
{
    return latencies ? latency[(size_t)(share * (latencies - 1))] : 0;
}

static void report(double seconds)
{
    const char *comma = "";
    qsort(latency, latencies, sizeof *latency, by_size);
    printf("{\"mode\":\"%s\",\"sessions\":%ld,\"good\":%ld,\"failed\":%ld,"
           "\"early\":%ld,\"dropped\":%ld,\"held\":%ld,\"messages\":%ld,"
           "\"accepted\":%ld,\"refused\":%ld,\"seconds\":%.4f,\"rate\":%.1f,"
           "\"p50\":%.3f,\"p95\":%.3f,\"p99\":%.3f,\"first_error\":\"%s\","
           "\"codes\":{",
           MODES[mode], begun, good, failed, early, dropped, held, messages,
           accepted, refused, seconds,
           seconds > 0 ? (mode == REUSE ? messages : good) / seconds : 0,
           percentile(.5), percentile(.95), percentile(.99), first_error);
    for (int stage = 0; stage < STAGES; stage++)
        for (int code = 200; code < 600; code++)
            if (codes[stage][code]) {
                printf("%s\"%s %d\":%ld", comma, STAGE[stage], code,
                       codes[stage][code]);
                comma = ",";
            }
    printf("}}\n");
}

static int set(const char *argument)
{
    static const struct {
        const char *name;
        long *value;
    } NAMES[] = {{"clients", &want.clients},   {"seconds", &want.seconds},
                 {"count", &want.count},       {"size", &want.size},
                 {"messages", &want.messages}, {"recipients", &want.recipients},
                 {"unknown", &want.unknown},   {"sources", &want.sources},
                 {"table", &want.table},       {"seed", &want.seed},
                 {"awake", &want.awake}};
    const char *equals = strchr(argument, '=');
    for (size_t i = 0; equals && i < sizeof NAMES / sizeof *NAMES; i++)
        if (strlen(NAMES[i].name) == (size_t)(equals - argument) &&
            !strncmp(argument, NAMES[i].name, equals - argument)) {
            *NAMES[i].value = atol(equals + 1);
            return 1;
        }
    return 0;
}

static int read_arguments(int argc, char **argv)
{
    if (argc < 3)
        return 0;
    port = atoi(argv[1]);
    while (MODES[mode] && strcmp(MODES[mode], argv[2]))
        mode++;
    for (int i = 3; i < argc; i++)
        if (!set(argv[i]))
            return 0;
    int bounded = want.count > 0 || (want.seconds > 0 && mode != HOLD);
    return MODES[mode] && port > 0 && bounded && want.clients > 0 &&
           want.sources > 0 && want.table > 0;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    if (!read_arguments(argc, argv)) {
        fprintf(stderr, "usage: load PORT MODE NAME=VALUE ... (see load.c);"
                        " count or seconds must be given\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    dice = want.seed;
    compose();
    long slots = mode == HOLD ? want.count : want.clients;
    all = calloc(slots, sizeof *all);
    for (long i = 0; i < slots; i++)
        all[i].fd = -1;
    ep = epoll_create1(EPOLL_CLOEXEC);
    report(mode == HOLD ? run_hold() : run_load());
    return 0;
}
