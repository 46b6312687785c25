/* Mock OpenAI-compatible provider: one thread, epoll, HTTP/1.1 keep-alive, tens of thousands of answers a second.
 *
 * usage: mock_provider PORT          (listens on 127.0.0.1 only)
 *
 * Every POST is a chat call: answered with about 1 kB of JSON, or, when its body says "stream":true, with chunks, a
 * usage chunk and [DONE]. Every answer has an id of its own, so that no two answers are the same bytes.
 * Markers anywhere in the body steer the answer (they survive any gateway that keeps the messages):
 *   [[delay=MS]] wait before the first byte    [[chunks=N]] stream chunks (50)    [[gap=MS]] pause between chunks (0)
 * GET /stats tells what came: {"posts", "answered", "abandoned" (the caller left early), "open"}.
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

enum { MOST_CONNECTIONS = 65536, EVENTS_A_ROUND = 512, FIRST_BUFFER = 8192 };

typedef struct {
    char *bytes;
    size_t length, sent, capacity;
} Buffer;

typedef struct {
    int fd, live, generation, wants_write, closing;
    Buffer in, out;
    int busy; /* a delayed or streamed answer is under way */
    int streamed, step, chunks, gap_ms;
    unsigned long long answer;
} Connection;

typedef struct {
    double due;
    Connection *connection;
    int generation;
} Timer;

static int poller;
static Timer *heap;
static size_t timers, heap_capacity;
static Connection *closed[MOST_CONNECTIONS], *reusable[MOST_CONNECTIONS];
static int closed_count, reusable_count;
static unsigned long long posts, answered, abandoned;
static long open_answers;
static char text[641];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* timers: a binary heap by due time */

static void timer_add(double due, Connection *c) {
    if (timers == heap_capacity) {
        heap_capacity = heap_capacity ? heap_capacity * 2 : 1024;
        heap = realloc(heap, heap_capacity * sizeof *heap);
    }
    size_t i = timers++;
    while (i && heap[(i - 1) / 2].due > due) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = (Timer){due, c, c->generation};
}

static Timer timer_pop(void) {
    Timer first = heap[0], last = heap[--timers];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < timers; i = child) {
        if (child + 1 < timers && heap[child + 1].due < heap[child].due) child++;
        if (heap[child].due >= last.due) break;
        heap[i] = heap[child];
    }
    if (timers) heap[i] = last;
    return first;
}

/* connections */

static void reserve(Buffer *b, size_t capacity) {
    if (capacity > b->capacity) {
        b->capacity = capacity * 2;
        b->bytes = realloc(b->bytes, b->capacity);
    }
}

static void put(Connection *c, const char *bytes, size_t length) {
    reserve(&c->out, c->out.length + length);
    memcpy(c->out.bytes + c->out.length, bytes, length);
    c->out.length += length;
}

static void drop(Connection *c) {
    if (!c->live) return;
    if (c->busy) {
        abandoned++;
        open_answers--;
        c->busy = 0;
    }
    epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->live = 0;
    c->generation++;
    if (closed_count < MOST_CONNECTIONS) closed[closed_count++] = c;
}

static void flush(Connection *c) {
    while (c->live && c->out.sent < c->out.length) {
        ssize_t n = send(c->fd, c->out.bytes + c->out.sent, c->out.length - c->out.sent, MSG_NOSIGNAL);
        if (n > 0) {
            c->out.sent += n;
            continue;
        }
        if (n < 0 && errno == EAGAIN) break;
        drop(c);
        return;
    }
    int pending = c->out.sent < c->out.length;
    if (!pending) {
        c->out.sent = c->out.length = 0;
        if (c->closing) {
            drop(c);
            return;
        }
    }
    if (c->live && pending != c->wants_write) {
        c->wants_write = pending;
        struct epoll_event e = {.events = EPOLLIN | (pending ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
    }
}

/* answers */

static void put_json(Connection *c, const char *body) {
    char head[160];
    size_t length = strlen(body);
    int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", length);
    put(c, head, n);
    put(c, body, length);
}

static void put_completion(Connection *c) {
    char body[2048];
    snprintf(body, sizeof body,
        "{\"id\":\"chatcmpl-%010llu\",\"object\":\"chat.completion\",\"created\":1760000000,\"model\":\"mock\",\"choices\":["
        "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\",\"refusal\":null},\"logprobs\":null,"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":211,\"completion_tokens\":187,\"total_tokens\":398,"
        "\"prompt_tokens_details\":{\"cached_tokens\":64}},\"system_fingerprint\":\"fp_mock\"}", c->answer, text);
    put_json(c, body);
}

static void put_event(Connection *c, const char *event) {
    char size[32];
    size_t length = strlen(event);
    put(c, size, snprintf(size, sizeof size, "%zx\r\n", length));
    put(c, event, length);
    put(c, "\r\n", 2);
    flush(c);
}

static void put_chunk(Connection *c, const char *rest) {
    char event[640];
    snprintf(event, sizeof event,
        "data: {\"id\":\"chatcmpl-%010llu\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"mock\",%s}\n\n",
        c->answer, rest);
    put_event(c, event);
}

static void put_token(Connection *c) {
    char rest[160];
    snprintf(rest, sizeof rest, "\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\" token %d word\"},\"finish_reason\":null}]",
        c->step ? "" : "\"role\":\"assistant\",", c->step);
    put_chunk(c, rest);
}

static void answer_ends(Connection *c) {
    answered++;
    open_answers--;
    c->busy = 0;
    flush(c);
}

/* The next step of an answer: all of it, or of a paced stream one chunk. */
static void advance(Connection *c) {
    if (!c->streamed) {
        put_completion(c);
        answer_ends(c);
        return;
    }
    if (c->step == 0) {
        const char *head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
        put(c, head, strlen(head));
    }
    while (c->live && c->step < c->chunks) {
        put_token(c);
        c->step++;
        if (c->live && c->gap_ms && c->step < c->chunks) {
            timer_add(now() + c->gap_ms / 1e3, c);
            return;
        }
    }
    if (c->live) put_chunk(c, "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]");
    if (c->live) put_chunk(c, "\"choices\":[],\"usage\":{\"prompt_tokens\":211,\"completion_tokens\":187,\"total_tokens\":398,"
                              "\"prompt_tokens_details\":{\"cached_tokens\":64}}");
    if (c->live) put_event(c, "data: [DONE]\n\n");
    if (c->live) {
        put(c, "0\r\n\r\n", 5);
        answer_ends(c);
    }
}

static int marker(const char *body, size_t length, const char *name, int otherwise) {
    char *found = memmem(body, length, name, strlen(name));
    return found ? atoi(found + strlen(name)) : otherwise;
}

/* Begins the answer to a POST and returns whether it starts at once. */
static int begin(Connection *c, const char *body, size_t length) {
    int delay_ms = marker(body, length, "[[delay=", 0);
    c->chunks = marker(body, length, "[[chunks=", 50);
    c->gap_ms = marker(body, length, "[[gap=", 0);
    c->streamed = memmem(body, length, "\"stream\":true", 13) || memmem(body, length, "\"stream\": true", 14);
    c->step = 0;
    c->busy = 1;
    c->answer = ++posts;
    open_answers++;
    if (delay_ms) timer_add(now() + delay_ms / 1e3, c);
    return !delay_ms;
}

static void put_stats(Connection *c) {
    char body[160];
    snprintf(body, sizeof body, "{\"posts\":%llu,\"answered\":%llu,\"abandoned\":%llu,\"open\":%ld}", posts, answered, abandoned, open_answers);
    put_json(c, body);
    flush(c);
}

/* requests */

typedef struct {
    char *body;
    size_t body_length, used;
    int chunked, close_after;
} Request;

static void read_headers(const char *head, const char *end, Request *request) {
    for (const char *line = head; line && line < end; line = memchr(line, '\n', end - line), line = line ? line + 1 : NULL) {
        if (!strncasecmp(line, "content-length:", 15)) request->body_length = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) request->chunked = 1;
        if (!strncasecmp(line, "connection: close", 17)) request->close_after = 1;
    }
}

/* Joins a chunked body in place; 0 when it is not complete. Incomplete bodies stay as they are. */
static int join_chunks(Buffer *in, size_t start, Request *request) {
    size_t at = start, length = 0;
    for (int joining = 0; joining < 2; joining++) { /* first look whether it is whole */
        at = start, length = 0;
        for (;;) {
            char *line_end = memmem(in->bytes + at, in->length - at, "\r\n", 2);
            if (!line_end) return 0;
            size_t size = strtoul(in->bytes + at, NULL, 16);
            at = line_end - in->bytes + 2;
            if (at + size + 2 > in->length) return 0;
            if (joining) memmove(in->bytes + start + length, in->bytes + at, size);
            length += size;
            at += size + 2;
            if (!size) break;
        }
    }
    request->body_length = length;
    request->used = at;
    return 1;
}

/* 0 when no whole request has come yet. */
static int next_request(Connection *c, Request *request) {
    *request = (Request){0};
    char *head_end = memmem(c->in.bytes, c->in.length, "\r\n\r\n", 4);
    if (!head_end) return 0;
    size_t head = head_end - c->in.bytes + 4;
    read_headers(c->in.bytes, head_end + 2, request);
    request->body = c->in.bytes + head;
    if (request->chunked) return join_chunks(&c->in, head, request);
    request->used = head + request->body_length;
    return c->in.length >= request->used;
}

static void answer_requests(Connection *c) {
    Request request;
    while (c->live && !c->busy && c->in.length && next_request(c, &request)) {
        int post = !strncmp(c->in.bytes, "POST", 4), at_once = post && begin(c, request.body, request.body_length);
        c->in.length -= request.used;
        memmove(c->in.bytes, c->in.bytes + request.used, c->in.length);
        c->closing = request.close_after;
        if (at_once) advance(c);
        if (!post) put_stats(c);
    }
}

static void receive(Connection *c) {
    while (c->live) {
        if (c->in.length == c->in.capacity) reserve(&c->in, c->in.length + 1);
        ssize_t n = recv(c->fd, c->in.bytes + c->in.length, c->in.capacity - c->in.length, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN) drop(c);
            break;
        }
        c->in.length += n;
    }
    if (c->live) answer_requests(c);
}

static void accept_all(int listening) {
    for (int fd; (fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Connection *c = reusable_count ? reusable[--reusable_count] : calloc(1, sizeof *c);
        *c = (Connection){.fd = fd, .live = 1, .generation = c->generation, .in = c->in, .out = c->out};
        c->in.length = c->out.length = c->out.sent = 0;
        reserve(&c->in, FIRST_BUFFER);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

static int listen_on(int port) {
    int one = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listening, (void *)&address, sizeof address) || listen(listening, 4096)) {
        perror("mock_provider: cannot listen");
        exit(1);
    }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listening, &e);
    return listening;
}

static void fire_timers(void) {
    while (timers && heap[0].due <= now()) {
        Timer timer = timer_pop();
        Connection *c = timer.connection;
        if (!c->live || timer.generation != c->generation) continue;
        advance(c);
        answer_requests(c);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: mock_provider PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof text - 1; i++) text[i] = "The quick brown fox jumps over the lazy dog. "[i % 45];
    poller = epoll_create1(0);
    int listening = listen_on(atoi(argv[1]));
    struct epoll_event events[EVENTS_A_ROUND];
    for (;;) {
        double wait_s = timers ? heap[0].due - now() : -1;
        int count = epoll_wait(poller, events, EVENTS_A_ROUND, !timers ? -1 : wait_s <= 0 ? 0 : (int)(wait_s * 1000) + 1);
        for (int i = 0; i < count; i++) {
            Connection *c = events[i].data.ptr;
            if (!c) accept_all(listening);
            if (c && c->live && events[i].events & EPOLLOUT) flush(c);
            if (c && c->live && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
        }
        while (closed_count && reusable_count < MOST_CONNECTIONS) reusable[reusable_count++] = closed[--closed_count];
        fire_timers();
    }
}
