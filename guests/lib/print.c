/* Formatted text, to the virtio console or the serial port. */
#include "guests/lib/sys.h"

#define LINE_CAP    512
#define SERIAL_PORT 0x3f8

static struct spinlock print_lock;
static bool have_console;

struct out {
	char *buf;
	size_t cap;
	size_t len;
};

static void out_char(struct out *o, char c)
{
	if (o->len + 1 < o->cap)
		o->buf[o->len] = c;
	o->len++;
}

struct spec {
	bool left, zero, alt;
	unsigned width;
	int precision;
	unsigned size; /* bytes of an integer argument */
};

/* `sign` is 0 or the sign's character. */
static void out_number(struct out *o, const struct spec *s, uint64_t v, unsigned base, char sign)
{
	char digits[24];
	unsigned n = 0, used;

	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	used = n + (sign != 0) + (s->alt ? 2 : 0);
	for (unsigned i = used; !s->left && !s->zero && i < s->width; i++)
		out_char(o, ' ');
	if (sign)
		out_char(o, sign);
	if (s->alt) {
		out_char(o, '0');
		out_char(o, 'x');
	}
	for (unsigned i = used; !s->left && s->zero && i < s->width; i++)
		out_char(o, '0');
	while (n)
		out_char(o, digits[--n]);
	for (unsigned i = used; s->left && i < s->width; i++)
		out_char(o, ' ');
}

static void out_text(struct out *o, const struct spec *s, const char *text)
{
	size_t n = 0;

	while ((s->precision < 0 || n < (size_t)s->precision) && text[n])
		n++;
	for (size_t i = n; !s->left && i < s->width; i++)
		out_char(o, ' ');
	for (size_t i = 0; i < n; i++)
		out_char(o, text[i]);
	for (size_t i = n; s->left && i < s->width; i++)
		out_char(o, ' ');
}

/* Parses what stands between `%` and the conversion; returns where that is. */
static const char *spec_parse(struct spec *s, const char *f)
{
	*s = (struct spec){.precision = -1, .size = 4};
	for (;; f++) {
		if (*f == '-')
			s->left = true;
		else if (*f == '0')
			s->zero = true;
		else if (*f == '#')
			s->alt = true;
		else
			break;
	}
	for (; *f >= '0' && *f <= '9'; f++)
		s->width = s->width * 10 + (unsigned)(*f - '0');
	if (*f == '.') {
		s->precision = 0;
		for (f++; *f >= '0' && *f <= '9'; f++)
			s->precision = s->precision * 10 + (*f - '0');
	}
	for (;; f++) {
		if (*f == 'l' || *f == 'z')
			s->size = 8;
		else if (*f == 'h')
			s->size /= 2;
		else
			break;
	}
	return f;
}

int format_text_v(char *buf, size_t cap, const char *fmt, va_list ap)
{
	struct out o = {buf, cap, 0};
	struct spec s;

	for (const char *f = fmt; *f; f++) {
		if (*f != '%') {
			out_char(&o, *f);
			continue;
		}
		f = spec_parse(&s, f + 1);
		if (*f == 'd' || *f == 'i') {
			int64_t v = s.size == 8 ? va_arg(ap, int64_t) : va_arg(ap, int);

			s.alt = false;
			out_number(&o, &s, v < 0 ? -(uint64_t)v : (uint64_t)v, 10, v < 0 ? '-' : 0);
		} else if (*f == 'u' || *f == 'x' || *f == 'p') {
			uint64_t v = s.size == 8 || *f == 'p' ? va_arg(ap, uint64_t)
							      : va_arg(ap, unsigned);

			if (s.size < 4)
				v &= (1u << (8 * s.size)) - 1;
			s.alt = *f == 'p' || (*f == 'x' && s.alt);
			out_number(&o, &s, v, *f == 'u' ? 10 : 16, 0);
		} else if (*f == 's') {
			out_text(&o, &s, va_arg(ap, const char *));
		} else if (*f == 'c') {
			out_char(&o, (char)va_arg(ap, int));
		} else if (*f) {
			out_char(&o, *f);
		} else {
			break;
		}
	}
	if (cap)
		buf[o.len < cap ? o.len : cap - 1] = 0;
	return (int)o.len;
}

int format_text(char *buf, size_t cap, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = format_text_v(buf, cap, fmt, ap);
	va_end(ap);
	return n;
}

void print_init(void)
{
	have_console = console_open();
}

void print_to_serial(void)
{
	have_console = false;
}

/* For the trap handler only: whoever held the lock will not go on. */
void print_unlock(void)
{
	spin_unlock(&print_lock);
}

void print_v(const char *fmt, va_list ap)
{
	char line[LINE_CAP];
	int n = format_text_v(line, sizeof(line), fmt, ap);
	size_t len = n < LINE_CAP ? (size_t)n : LINE_CAP - 1;

	if (n >= LINE_CAP)
		line[len - 1] = '\n'; /* cut, but still a line */
	spin_lock(&print_lock);
	if (have_console) {
		console_write(line, len);
	} else {
		for (size_t i = 0; i < len; i++)
			cpu_out8(SERIAL_PORT, (uint8_t)line[i]);
	}
	spin_unlock(&print_lock);
}

void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	print_v(fmt, ap);
	va_end(ap);
}
