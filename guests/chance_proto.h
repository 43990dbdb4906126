/*
 * A service whose answers have one byte that only the machine that gives them knows. A question
 * draws that byte for its id and remembers it; CHANCE_TELL draws nothing, and says what is
 * remembered. UDP datagrams, or over TCP one after the other. Little-endian.
 */
#ifndef GUESTS_CHANCE_PROTO_H
#define GUESTS_CHANCE_PROTO_H

#include <stdint.h>

#define CHANCE_PORT 11
#define CHANCE_IDS  4096u
#define CHANCE_DATA 16u
#define CHANCE_NONE 0x100u /* no byte was drawn for that id */

enum chance_op {
	CHANCE_ANSWER,	/* the byte is in the answer, at `where` of data; the rest is where's number
			 */
	CHANCE_CONSOLE, /* it is in a line on the console: `chance ID BYTE`; the answer has none */
	CHANCE_TELL,	/* `drawn` of the answer has it, or CHANCE_NONE */
};

struct chance_ask {
	uint32_t id; /* below CHANCE_IDS */
	uint16_t op;
	uint16_t where; /* below CHANCE_DATA */
};

struct chance_answer {
	uint32_t id;
	uint32_t drawn; /* CHANCE_TELL only; else CHANCE_NONE */
	uint8_t data[CHANCE_DATA];
};

#endif
