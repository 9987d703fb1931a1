/* sink - a backend that answers as qmail-smtpd does, takes everything and keeps
 * nothing.
 *
 *   sink PORT [-r]      serves 127.0.0.1:PORT until it is killed
 *   sink -i [-r] [-q]   one session on descriptors 0 and 1, for tcpserver
 *
 * -r  refuses recipients that begin with "nobody", for servers before it that
 *     know no recipients themselves
 * -q  one more process for each message, as qmail-queue is
 *
 * STAT answers "250 connections messages recipients bytes". Called by
 * bench/tools.py and bench/direct.py. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAME "sink.example.test"
#define LINE_MAX_ 1024
#define READ_MAX 65536

struct session {
    int fd;
    int mail, recipients, quit;
    int message; /* after 354 */
    int matched; /* characters of END seen, in a message */
    size_t line_length, out_length;
    char line[LINE_MAX_ + 1], out[4096];
};

static const char END[] = "\r\n.\r\n";
static unsigned long connections, messages, recipients;
static unsigned long long bytes;
static int refusing, queueing;

static void write_all(int fd, const char *data, size_t length)
{
    while (length) {
        ssize_t sent = write(fd, data, length);
        if (sent > 0) {
            data += sent;
            length -= sent;
        } else if (errno == EAGAIN) {
            struct pollfd wait = {fd, POLLOUT, 0};
            poll(&wait, 1, 1000);
        } else if (errno != EINTR)
            return; /* the reader is gone; the next read tells */
    }
}

static void flush(struct session *s, int fd)
{
    write_all(fd, s->out, s->out_length);
    s->out_length = 0;
}

static void say(struct session *s, int fd, const char *text)
{
    size_t length = strlen(text);
    if (s->out_length + length > sizeof s->out)
        flush(s, fd);
    memcpy(s->out + s->out_length, text, length);
    s->out_length += length;
}

static void queue(void)
{
    pid_t child = fork();
    if (!child)
        _exit(0);
    waitpid(child, 0, 0);
}

/* Takes bytes of a message; how many of them were its own. */
static size_t take(struct session *s, int fd, const char *data, size_t length)
{
    size_t at = 0;
    while (at < length && s->message) {
        if (!s->matched) {
            const char *cr = memchr(data + at, '\r', length - at);
            if (!cr) {
                at = length;
                break;
            }
            at = cr - data;
        }
        char c = data[at++];
        s->matched = c == END[s->matched] ? s->matched + 1 : c == '\r';
        if (s->matched == 5) {
            s->message = s->mail = s->recipients = 0;
            messages++;
            if (queueing)
                queue();
            say(s, fd, "250 ok 1700000000 qp 4242\r\n");
        }
    }
    bytes += at;
    return at;
}

static int is(const char *line, const char *verb)
{
    return !strncasecmp(line, verb, 4) && (!line[4] || line[4] == ' ');
}

static void command(struct session *s, int fd, const char *line)
{
    char text[160];
    if (is(line, "EHLO"))
        say(s, fd, "250-" NAME "\r\n250-PIPELINING\r\n250 8BITMIME\r\n");
    else if (is(line, "HELO"))
        say(s, fd, "250 " NAME "\r\n");
    else if (is(line, "MAIL")) {
        s->mail = 1;
        s->recipients = 0;
        say(s, fd, "250 ok\r\n");
    } else if (is(line, "RCPT")) {
        if (!s->mail)
            say(s, fd, "503 MAIL first (#5.5.1)\r\n");
        else if (refusing && strcasestr(line, "<nobody"))
            say(s, fd, "550 no such user (#5.1.1)\r\n");
        else {
            s->recipients++;
            recipients++;
            say(s, fd, "250 ok\r\n");
        }
    } else if (is(line, "DATA")) {
        if (!s->recipients)
            say(s, fd, "503 RCPT first (#5.5.1)\r\n");
        else {
            s->message = 1;
            s->matched = 2; /* the line end of DATA counts (RFC 5321 4.1.1.4) */
            say(s, fd, "354 go ahead\r\n");
        }
    } else if (is(line, "RSET")) {
        s->mail = s->recipients = 0;
        say(s, fd, "250 flushed\r\n");
    } else if (is(line, "NOOP"))
        say(s, fd, "250 ok\r\n");
    else if (is(line, "QUIT")) {
        say(s, fd, "221 " NAME "\r\n");
        s->quit = 1;
    } else if (is(line, "STAT")) {
        snprintf(text, sizeof text, "250 %lu %lu %lu %llu\r\n", connections,
                 messages, recipients, bytes);
        say(s, fd, text);
    } else
        say(s, fd, "502 unimplemented (#5.5.1)\r\n");
}

/* Everything that one read gave; whether the session goes on. */
static int feed(struct session *s, int fd, const char *data, size_t length)
{
    while (length && !s->quit) {
        if (s->message) {
            size_t taken = take(s, fd, data, length);
            data += taken;
            length -= taken;
            continue;
        }
        char c = *data++;
        length--;
        if (c == '\n') {
            if (s->line_length && s->line[s->line_length - 1] == '\r')
                s->line_length--;
            s->line[s->line_length] = 0;
            s->line_length = 0;
            command(s, fd, s->line);
        } else if (s->line_length < LINE_MAX_)
            s->line[s->line_length++] = c;
    }
    flush(s, fd);
    return !s->quit;
}

static int one_session(void)
{
    static struct session s;
    static char buffer[READ_MAX];
    ssize_t got;
    connections = 1;
    write_all(1, "220 " NAME " ESMTP\r\n", strlen("220 " NAME " ESMTP\r\n"));
    while ((got = read(0, buffer, sizeof buffer)) > 0)
        if (!feed(&s, 1, buffer, got))
            break;
    return 0;
}

static void greet(int ep, int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct session *s = calloc(1, sizeof *s);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        s->fd = fd;
        connections++;
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
        say(s, fd, "220 " NAME " ESMTP\r\n");
        flush(s, fd);
    }
}

static int listen_on(int port)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) {
        perror("sink: listen");
        exit(1);
    }
    return fd;
}

static void serve(int port)
{
    static char buffer[READ_MAX];
    struct epoll_event events[256], accepting = {.events = EPOLLIN};
    int listener = listen_on(port), ep = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &accepting);
    for (;;) {
        int count = epoll_wait(ep, events, 256, -1);
        for (int i = 0; i < count; i++) {
            struct session *s = events[i].data.ptr;
            if (!s) {
                greet(ep, listener);
                continue;
            }
            ssize_t got = read(s->fd, buffer, sizeof buffer);
            if (got < 0 && (errno == EAGAIN || errno == EINTR))
                continue;
            if (got <= 0 || !feed(s, s->fd, buffer, got)) {
                close(s->fd);
                free(s);
            }
        }
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;
    int port = 0, stdio = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-r"))
            refusing = 1;
        else if (!strcmp(argv[i], "-q"))
            queueing = 1;
        else if (!strcmp(argv[i], "-i"))
            stdio = 1;
        else
            port = atoi(argv[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    if (stdio)
        return one_session();
    if (port <= 0) {
        fprintf(stderr, "usage: sink PORT [-r] | sink -i [-r] [-q]\n");
        return 2;
    }
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    serve(port);
    return 1;
}
