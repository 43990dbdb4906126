/* The entropy device (virtio 1.2, section 5.4). */
#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"

static struct {
	struct virtio_dev dev;
	struct virtq queue;
	bool open;
} rng;

static bool rng_open(void)
{
	if (rng.open)
		return true;
	if (!virtio_find(&rng.dev, VIRTIO_ID_RNG, 0) || virtio_setup(&rng.dev, 0) ||
	    virtq_init(&rng.queue, &rng.dev, 0, 4))
		return false;
	virtio_start(&rng.dev);
	rng.open = true;
	return true;
}

int rng_read(void *buf, uint32_t len)
{
	uint8_t *at = buf;

	if (!rng_open())
		return -ENODEV;
	while (len) {
		struct virtq_buf piece = {at, len};
		uint32_t got = 0;

		virtq_add(&rng.queue, &piece, 0, 1, &rng);
		virtq_kick(&rng.queue);
		for (;;) {
			uint64_t seen = guest_events();

			if (virtq_get(&rng.queue, &got))
				break;
			guest_wait(seen);
		}
		if (got > len)
			got = len;
		at += got;
		len -= got;
	}
	return 0;
}
