/* Reads the serial port, and says each line back with its number; "flood N" prints N lines more. */
#include "guests/lib/guest.h"
#include "guests/lib/cpu.h"

#define PORT_DATA  0x3f8
#define PORT_LSR   0x3fd
#define DATA_READY 0x01
#define OVERRUN	   0x02
#define LINE_CAP   200

static char line[LINE_CAP];
static unsigned len, count;

static void flood(const char *words)
{
	const char *end;
	uint64_t n;

	if (text_u64(words, " ", &n, &end))
		while (n--)
			print("%0100lu\n", n);
}

static void take(char c)
{
	if (c != '\n' && c != '\r') {
		if (len < LINE_CAP - 1)
			line[len++] = c;
		return;
	}
	line[len] = 0;
	if (!memcmp(line, "flood ", 6))
		flood(line + 6);
	print("line %u: %s\n", ++count, line);
	len = 0;
}

int main(void)
{
	print("READY\n");
	for (;;) {
		uint8_t status = cpu_in8(PORT_LSR);

		if (status & OVERRUN)
			guest_die(3, "FAILED: a byte was lost");
		if (status & DATA_READY)
			take((char)cpu_in8(PORT_DATA));
		else
			guest_sleep_until(clock_ns() + 1000000);
		if (len == 4 && !memcmp(line, "quit", 4))
			return 0;
	}
}
