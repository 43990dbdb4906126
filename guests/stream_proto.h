/*
 * The endless byte stream that network guests send to whoever connects to STREAM_PORT (TCP).
 * Byte i of every connection, counted from 0, is stream_byte(i): a fixed block of a prime number
 * of bytes over and over, so that no loss of segments or pages goes unnoticed, and a checker
 * needs one table only. What comes to SINK_PORT (TCP) is read and thrown away.
 */
#ifndef GUESTS_STREAM_PROTO_H
#define GUESTS_STREAM_PROTO_H

#include <stdint.h>

#define STREAM_PORT   9
#define SINK_PORT     10
#define STREAM_PERIOD 65521u

static inline uint8_t stream_byte(uint64_t i)
{
	return (uint8_t)((uint32_t)(i % STREAM_PERIOD) * 2654435761u >> 24);
}

#endif
