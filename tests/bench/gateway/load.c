/* Closed-loop HTTP/1.1 load: one thread, epoll, keep-alive, exact counts, one JSON line of figures.
 *
 * usage: load --port P --path /x --body FILE [--identities FILE] [--callers N] [--calls N] [--seconds S]
 *             [--stream] [--leave EVENTS] [--expect TEXT]
 *
 *   --identities  blocks of header lines, a NUL after each block; caller i sends block i modulo their number
 *   --seconds     no call starts after that; those under way get 30 s to end
 *   --stream      also tells times to the first event and counts events
 *   --leave       close the connection after so many events, which counts as answered
 *   --expect      an answer without this text is bad, not ok
 * Ten # in the body become a number that no other call has. Talks to 127.0.0.1 only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PLACE_OF_NUMBER "##########"
#define GRACE_S 30.0
enum { MOST_IDENTITIES = 65536, STATUSES = 600, EVENTS_A_ROUND = 512, FIRST_BUFFER = 65536 };

typedef struct {
    int fd, busy;
    char *request, *number;
    size_t request_length, sent;
    char *in;
    size_t length, capacity;
    double began, first_event;
} Caller;

static struct {
    int port, callers, stream, leave;
    long calls;
    double seconds;
    const char *path, *expect;
} options = {.callers = 1, .calls = 100, .seconds = 30, .path = "/"};

static int poller;
static struct sockaddr_in server;
static long started, ended, ok, errors, bad, events, statuses[STATUSES];
static double *latencies, *first_events;
static long first_events_count;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* sending */

static void hang_up(Caller *c) {
    epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->fd = -1;
}

static void dial(Caller *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (void *)&server, sizeof server) && errno != EINPROGRESS) {
        perror("load: cannot connect");
        exit(1);
    }
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
}

static void send_on(Caller *c) {
    while (c->sent < c->request_length) {
        ssize_t n = send(c->fd, c->request + c->sent, c->request_length - c->sent, MSG_NOSIGNAL);
        if (n <= 0) break; /* EAGAIN: epoll says when to go on; broken: reading finds out */
        c->sent += n;
    }
    struct epoll_event e = {.events = EPOLLIN | (c->sent < c->request_length ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void begin(Caller *c) {
    char number[32];
    snprintf(number, sizeof number, "%010ld", ++started);
    if (c->number) memcpy(c->number, number, 10);
    c->busy = 1;
    c->sent = c->length = 0;
    c->first_event = 0;
    c->began = now();
    if (c->fd < 0) dial(c);
    else send_on(c);
}

/* receiving */

typedef struct {
    int status, keeps, chunked, whole;
    char *body;
    size_t body_length;
} Reply;

static Reply parse(Caller *c, int eof) {
    Reply reply = {.keeps = 1};
    char *head_end = memmem(c->in, c->length, "\r\n\r\n", 4);
    if (!head_end) return reply;
    int has_length = 0;
    size_t length = 0;
    reply.status = atoi(c->in + 9);
    reply.body = head_end + 4;
    reply.body_length = c->in + c->length - reply.body;
    for (char *line = c->in; line < head_end; line = (char *)memchr(line, '\n', head_end + 2 - line) + 1) {
        if (!strncasecmp(line, "content-length:", 15)) has_length = 1, length = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) reply.chunked = 1;
        if (!strncasecmp(line, "connection: close", 17)) reply.keeps = 0;
    }
    if (reply.chunked) reply.whole = reply.body_length >= 5 && !memcmp(c->in + c->length - 5, "0\r\n\r\n", 5);
    else if (has_length) reply.whole = reply.body_length >= length;
    else reply.keeps = 0, reply.whole = eof;
    return reply;
}

static void join_chunks(Reply *reply) {
    char *at = reply->body, *end = at + reply->body_length;
    size_t length = 0;
    while (at < end) {
        size_t size = strtoul(at, NULL, 16);
        char *line_end = memmem(at, end - at, "\r\n", 2);
        if (!size || !line_end || line_end + 2 + size > end) break;
        memmove(reply->body + length, line_end + 2, size);
        length += size;
        at = line_end + 2 + size + 2;
    }
    reply->body_length = length;
}

static long count_events(const char *bytes, size_t length) {
    long count = 0;
    const char *end = bytes + length;
    for (const char *at = bytes; (at = memmem(at, end - at, "data:", 5)); at += 5) count++;
    return count;
}

static void answered(Caller *c) {
    latencies[ok++] = now() - c->began;
    if (c->first_event) first_events[first_events_count++] = c->first_event - c->began;
}

static void end_call(Caller *c, Reply *reply) {
    ended++;
    c->busy = 0;
    if (reply->status > 0 && reply->status < STATUSES) statuses[reply->status]++;
    if (reply->chunked && reply->whole) join_chunks(reply);
    if (!reply->whole || reply->status != 200) errors++;
    else if (options.expect && !memmem(reply->body, reply->body_length, options.expect, strlen(options.expect))) bad++;
    else {
        answered(c);
        if (options.stream) events += count_events(reply->body, reply->body_length);
    }
}

/* Whether the caller is free for its next call. */
static int receive(Caller *c) {
    int eof = 0;
    while (!eof) {
        if (c->length == c->capacity) c->in = realloc(c->in, c->capacity *= 2);
        ssize_t n = recv(c->fd, c->in + c->length, c->capacity - c->length, 0);
        if (n < 0 && errno == EAGAIN) break;
        if (n > 0) c->length += n;
        else eof = 1;
    }
    if (!c->busy) {
        if (eof) hang_up(c);
        return 0;
    }
    if (options.stream && !c->first_event && memmem(c->in, c->length, "data:", 5)) c->first_event = now();
    if (options.leave && c->first_event && count_events(c->in, c->length) >= options.leave) {
        ended++, statuses[200]++, c->busy = 0;
        answered(c);
        hang_up(c);
        return 1;
    }
    Reply reply = parse(c, eof);
    if (!reply.whole && !eof) return 0;
    end_call(c, &reply);
    if (eof || !reply.keeps) hang_up(c);
    return 1;
}

/* set-up and figures */

static char *read_file(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(2);
    }
    fseek(file, 0, SEEK_END);
    *length = ftell(file);
    rewind(file);
    char *content = calloc(1, *length + 1);
    if (fread(content, 1, *length, file) != *length) exit(2);
    fclose(file);
    return content;
}

static void write_requests(Caller *callers, const char *body_path, const char *identities_path) {
    size_t body_length, identities_length;
    char *body = read_file(body_path, &body_length), *all, *blocks[MOST_IDENTITIES] = {""};
    int block_count = 0;
    if (identities_path) {
        all = read_file(identities_path, &identities_length);
        for (char *at = all; at < all + identities_length && block_count < MOST_IDENTITIES; at += strlen(at) + 1) blocks[block_count++] = at;
    }
    for (int i = 0; i < options.callers; i++) {
        char *identity = block_count ? blocks[i % block_count] : "", *request = malloc(body_length + strlen(identity) + 1024);
        int head = sprintf(request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n%s%sContent-Length: %zu\r\n\r\n",
            options.path, options.port, identity, *identity ? "\r\n" : "", body_length);
        memcpy(request + head, body, body_length);
        callers[i] = (Caller){.fd = -1, .request = request, .request_length = head + body_length, .capacity = FIRST_BUFFER};
        callers[i].number = memmem(request + head, body_length, PLACE_OF_NUMBER, 10);
        callers[i].in = malloc(FIRST_BUFFER);
    }
}

static void run(Caller *callers) {
    Caller **idle = malloc(options.callers * sizeof *idle);
    int idle_count = 0;
    for (int i = options.callers; i--;) idle[idle_count++] = &callers[i];
    double start = now();
    struct epoll_event ready[EVENTS_A_ROUND];
    while (ended < options.calls) {
        double passed = now() - start;
        if (passed > options.seconds && options.calls > started) options.calls = started;
        if (passed > options.seconds + GRACE_S || ended >= options.calls) break;
        while (idle_count && started < options.calls) begin(idle[--idle_count]);
        int count = epoll_wait(poller, ready, EVENTS_A_ROUND, 50);
        for (int i = 0; i < count; i++) {
            Caller *c = ready[i].data.ptr;
            if (c->fd >= 0 && ready[i].events & EPOLLOUT) send_on(c);
            if (c->fd >= 0 && ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && receive(c)) idle[idle_count++] = c;
        }
    }
    printf("{\"elapsed_s\":%.4f,", now() - start);
}

static int by_size(const void *a, const void *b) {
    double x = *(double *)a, y = *(double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, double *times, long count) {
    qsort(times, count, sizeof *times, by_size);
    printf("\"%s\":{", name);
    if (count) printf("\"p50\":%.4f,\"p90\":%.4f,\"p99\":%.4f,\"max\":%.4f", times[count / 2] * 1e3, times[count * 90 / 100] * 1e3,
        times[count * 99 / 100] * 1e3, times[count - 1] * 1e3);
    printf("},");
}

int main(int argc, char **argv) {
    const char *body = NULL, *identities = NULL;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(name, "--stream")) {
            options.stream = 1;
            continue;
        }
        i++;
        if (!strcmp(name, "--port")) options.port = atoi(value);
        else if (!strcmp(name, "--path")) options.path = value;
        else if (!strcmp(name, "--body")) body = value;
        else if (!strcmp(name, "--identities")) identities = value;
        else if (!strcmp(name, "--callers")) options.callers = atoi(value);
        else if (!strcmp(name, "--calls")) options.calls = atol(value);
        else if (!strcmp(name, "--seconds")) options.seconds = atof(value);
        else if (!strcmp(name, "--leave")) options.leave = atoi(value);
        else if (!strcmp(name, "--expect")) options.expect = value;
        else return fprintf(stderr, "load: unknown option %s\n", name), 2;
    }
    if (!body || !options.port) return fprintf(stderr, "load: --port and --body are needed\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(options.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    poller = epoll_create1(0);
    latencies = malloc((options.calls + 1) * sizeof *latencies);
    first_events = malloc((options.calls + 1) * sizeof *first_events);
    Caller *callers = calloc(options.callers, sizeof *callers);
    write_requests(callers, body, identities);
    run(callers);
    print_times("latency_ms", latencies, ok);
    print_times("first_event_ms", first_events, first_events_count);
    printf("\"ok\":%ld,\"errors\":%ld,\"bad\":%ld,\"unfinished\":%ld,\"events\":%ld,\"statuses\":{", ok, errors, bad, started - ended, events);
    for (int i = 0, first = 1; i < STATUSES; i++)
        if (statuses[i]) printf("%s\"%d\":%ld", first ? "" : ",", i, statuses[i]), first = 0;
    printf("}}\n");
    return 0;
}
