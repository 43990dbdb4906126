#include "devices/virtio_mmio.h"

#include <linux/virtio_mmio.h>
#include <string.h>

#define MAGIC  0x74726976u /* "virt" */
#define VENDOR 0x4d565446u /* "FTVM" */

static struct virtq *selected(struct virtio_dev *vd)
{
	uint32_t sel = vd->st->queue_sel;

	return sel < vd->nqueues ? &vd->vq[sel] : NULL;
}

static uint32_t read_features(const struct virtio_dev *vd)
{
	switch (vd->st->dev_features_sel) {
	case 0:
		return (uint32_t)vd->features;
	case 1:
		return (uint32_t)(vd->features >> 32);
	default:
		return 0;
	}
}

static uint32_t read_reg(struct virtio_dev *vd, uint64_t off)
{
	const struct virtq *vq = selected(vd);

	switch (off) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return 2;
	case VIRTIO_MMIO_DEVICE_ID:
		return vd->ops->device_id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return read_features(vd);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return vq ? VIRTQ_MAX_SIZE : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return vq ? vq->st->ready : 0;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return vd->st->irq_status;
	case VIRTIO_MMIO_STATUS:
		return vd->st->status;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return UINT32_MAX; /* no such region: section 4.2.2 */
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return vd->st->config_gen;
	default:
		return 0;
	}
}

static uint64_t read_config(struct virtio_dev *vd, uint64_t off, unsigned size)
{
	uint8_t config[VIRTIO_CONFIG_MAX + sizeof(uint64_t)] = {0};
	uint64_t val = 0;

	if (off >= VIRTIO_CONFIG_MAX)
		return 0;
	vd->ops->config(vd, config);
	memcpy(&val, config + off, size);
	return val;
}

uint64_t virtio_mmio_read(void *arg, uint64_t off, unsigned size)
{
	struct virtio_dev *vd = arg;
	uint64_t val = 0;

	pthread_mutex_lock(&vd->dev.lock);
	if (off >= VIRTIO_MMIO_CONFIG)
		val = read_config(vd, off - VIRTIO_MMIO_CONFIG, size);
	else if (size == 4 && off % 4 == 0)
		val = read_reg(vd, off);
	pthread_mutex_unlock(&vd->dev.lock);
	return val;
}

static void set_half(uint64_t *addr, bool high, uint32_t val)
{
	*addr = high ? (*addr & UINT32_MAX) | (uint64_t)val << 32
		     : (*addr & ~(uint64_t)UINT32_MAX) | val;
}

/* Registers of the selected queue. */
static void write_queue(struct virtio_dev *vd, uint64_t off, uint32_t val)
{
	struct virtq *vq = selected(vd);

	if (!vq)
		return;
	if (off == VIRTIO_MMIO_QUEUE_READY) {
		virtio_set_queue_ready(vd, vq, val & 1);
		return;
	}
	if (!virtio_queue_open(vd, vq))
		return;
	switch (off) {
	case VIRTIO_MMIO_QUEUE_NUM:
		/* A bad size stays 0 and is refused when the queue is enabled. */
		vq->st->size = val <= VIRTQ_MAX_SIZE && !(val & (val - 1)) ? val : 0;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&vq->st->desc, off == VIRTIO_MMIO_QUEUE_DESC_HIGH, val);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&vq->st->avail, off == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, val);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_half(&vq->st->used, off == VIRTIO_MMIO_QUEUE_USED_HIGH, val);
		break;
	}
}

static void write_reg(struct virtio_dev *vd, uint64_t off, uint32_t val)
{
	switch (off) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		vd->st->dev_features_sel = val;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		vd->st->drv_features_sel = val;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		virtio_set_features(vd, vd->st->drv_features_sel, val);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		vd->st->queue_sel = val;
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		/* Normally the kernel's ioeventfd takes this write and we never see it. */
		if (val < vd->nqueues)
			virtio_kick(vd, val);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		vd->st->irq_status &= ~val;
		break;
	case VIRTIO_MMIO_STATUS:
		virtio_set_status(vd, val);
		break;
	default:
		write_queue(vd, off, val);
		break;
	}
}

void virtio_mmio_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	struct virtio_dev *vd = arg;
	bool config = off >= VIRTIO_MMIO_CONFIG;

	if (config ? !vd->ops->config_write : size != 4 || off % 4)
		return;
	pthread_mutex_lock(&vd->dev.lock);
	if (config)
		vd->ops->config_write(vd, off - VIRTIO_MMIO_CONFIG, size, val);
	else
		write_reg(vd, off, (uint32_t)val);
	pthread_mutex_unlock(&vd->dev.lock);
}
