// SPDX-License-Identifier: GPL-2.0-or-later
/* The text of HTTP/1.1 (RFC 9110, RFC 9112): no connection, no file, no state but a clock. */
#define _GNU_SOURCE
#include "web.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

size_t request_size(const char *data, size_t size)
{
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    return end ? end + 4 - data : 0;
}

static enum method method_of(const char *name, size_t size)
{
    if (size == 3 && !memcmp(name, "GET", 3))
        return GET;
    if (size == 4 && !memcmp(name, "HEAD", 4))
        return HEAD;
    return OTHER_METHOD;
}

/* http://host/path, as sent to proxies, which a server must understand too, to /path. */
static void drop_authority(struct request *request)
{
    if (request->target_size < 7 || strncasecmp(request->target, "http://", 7))
        return;
    const char *end = request->target + request->target_size;
    const char *path = memchr(request->target + 7, '/', request->target_size - 7);
    request->target = path ? path : "/";
    request->target_size = path ? end - path : 1;
}

static void drop_query(struct request *request)
{
    const char *query = memchr(request->target, '?', request->target_size);
    if (query)
        request->target_size = query - request->target;
}

/* METHOD SP target SP HTTP/1.x, the line ending at `end`. */
static bool parse_request_line(const char *line, const char *end, struct request *request,
                               int *minor)
{
    const char *target = memchr(line, ' ', end - line);
    if (!target || target == line)
        return false;
    request->method = method_of(line, target - line);
    target++;
    const char *version = memchr(target, ' ', end - target);
    if (!version || end - version != 9 || memcmp(version, " HTTP/1.", 8) || !isdigit(version[8]))
        return false;
    *minor = version[8] - '0';
    request->target = target;
    request->target_size = version - target;
    drop_authority(request);
    drop_query(request);
    return request->method == OTHER_METHOD || request->target[0] == '/';
}

/* Nobody here reads a body, so what follows it on the connection can't be told from it. */
static bool has_body(const struct request *request)
{
    char value[32];
    if (find_header(request, "Transfer-Encoding", NULL, 0))
        return true;
    return find_header(request, "Content-Length", NULL, 0) &&
           !(find_header(request, "Content-Length", value, sizeof(value)) && !strcmp(value, "0"));
}

static bool wants_keep_alive(const struct request *request, int minor)
{
    char value[64] = "";
    find_header(request, "Connection", value, sizeof(value));
    return minor >= 1 ? !strcasestr(value, "close") : strcasestr(value, "keep-alive") != NULL;
}

bool request_parse(const char *head, size_t size, struct request *request)
{
    const char *head_end = head + size;
    if (size >= 2 && !memcmp(head, "\r\n", 2))
        head += 2; /* some clients end a body with a line too many */
    *request = (struct request){.method = GET, .target = "", .headers = ""};

    const char *line_end = memmem(head, head_end - head, "\r\n", 2);
    int minor;
    if (!line_end || memchr(head, '\0', head_end - head) ||
        !parse_request_line(head, line_end, request, &minor))
        return false;
    request->headers = line_end + 2;
    request->headers_size = head_end - request->headers;
    request->keep_alive = wants_keep_alive(request, minor) && !has_body(request);
    return minor == 0 || find_header(request, "Host", NULL, 0);
}

/* Copies the value without the blanks around it; size 0 only asks whether the header is there.
   A value that does not fit counts as absent. */
bool find_header(const struct request *request, const char *name, char *value, size_t size)
{
    size_t name_size = strlen(name);
    const char *line = request->headers;
    const char *end = request->headers + request->headers_size;

    for (const char *eol; line < end && (eol = memmem(line, end - line, "\r\n", 2)); line = eol + 2) {
        if ((size_t)(eol - line) <= name_size || line[name_size] != ':' ||
            strncasecmp(line, name, name_size))
            continue;
        const char *text = line + name_size + 1;
        while (text < eol && (*text == ' ' || *text == '\t'))
            text++;
        while (eol > text && (eol[-1] == ' ' || eol[-1] == '\t'))
            eol--;
        if (size == 0)
            return true;
        if ((size_t)(eol - text) >= size)
            return false;
        memcpy(value, text, eol - text);
        value[eol - text] = '\0';
        return true;
    }
    return false;
}

static int hex_digit(char c)
{
    return isdigit(c) ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : -1;
}

/* Percent-decodes to a string. False: malformed, a zero byte, or too long. */
bool url_decode(const char *text, size_t size, char *out, size_t out_size)
{
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            if (size - i < 3 || hex_digit(text[i + 1]) < 0 || hex_digit(text[i + 2]) < 0)
                return false;
            c = hex_digit(text[i + 1]) << 4 | hex_digit(text[i + 2]);
            i += 2;
        }
        if (c == '\0' || used + 1 >= out_size)
            return false;
        out[used++] = c;
    }
    out[used] = '\0';
    return true;
}

bool climbs(const char *path, size_t size)
{
    const char *end = path + size;
    while (path <= end) {
        const char *slash = memchr(path, '/', end - path);
        const char *segment_end = slash ? slash : end;
        if (segment_end - path == 2 && path[0] == '.' && path[1] == '.')
            return true;
        path = segment_end + 1;
    }
    return false;
}

const char *mime_type(const char *path)
{
    static const struct {
        const char *extension, *type;
    } types[] = {
        {"html", "text/html; charset=utf-8"}, {"htm", "text/html; charset=utf-8"},
        {"txt", "text/plain; charset=utf-8"}, {"css", "text/css; charset=utf-8"},
        {"js", "text/javascript"},            {"json", "application/json"},
        {"svg", "image/svg+xml"},             {"png", "image/png"},
        {"jpg", "image/jpeg"},                {"jpeg", "image/jpeg"},
        {"gif", "image/gif"},                 {"ico", "image/x-icon"},
        {"woff2", "font/woff2"},              {"pdf", "application/pdf"},
        {"wasm", "application/wasm"},
    };
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < sizeof(types) / sizeof(types[0]); i++)
        if (!strcasecmp(dot + 1, types[i].extension))
            return types[i].type;
    return "application/octet-stream";
}

const char *reason_phrase(int status)
{
    switch (status) {
    case 200: return "OK";
    case 206: return "Partial Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 416: return "Range Not Satisfiable";
    case 503: return "Service Unavailable";
    default: return "Unknown";
    }
}

const char *http_date(void)
{
    static time_t formatted;
    static char text[32];
    time_t now = time(NULL);
    if (now != formatted) {
        struct tm utc;
        gmtime_r(&now, &utc);
        strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &utc);
        formatted = now;
    }
    return text;
}
