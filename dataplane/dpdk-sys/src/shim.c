/* See shim.h. */
#define _GNU_SOURCE
#include "shim.h"

#include <sys/types.h>

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_ring.h>

int shim_errno(void) { return rte_errno; }

uint32_t shim_lcore_id(void) { return rte_lcore_id(); }

uint16_t shim_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t shim_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count) {
    return rte_eth_tx_burst(port, queue, mbufs, count);
}

struct rte_mbuf *shim_mbuf_alloc(struct rte_mempool *pool) { return rte_pktmbuf_alloc(pool); }

void shim_mempool_empty_cache(struct rte_mempool *pool) {
    struct rte_mempool_cache *cache = rte_mempool_default_cache(pool, rte_lcore_id());
    if (cache != NULL)
        rte_mempool_cache_flush(cache, pool);
}

int shim_mbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, uint32_t count) {
    return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void shim_mbuf_free(struct rte_mbuf *mbuf) { rte_pktmbuf_free(mbuf); }

uint32_t shim_ring_enqueue_burst(struct rte_ring *ring, void *const *objects, uint32_t count) {
    return rte_ring_enqueue_burst(ring, objects, count, NULL);
}

uint32_t shim_ring_dequeue_burst(struct rte_ring *ring, void **objects, uint32_t count) {
    return rte_ring_dequeue_burst(ring, objects, count, NULL);
}

uint32_t shim_ring_count(const struct rte_ring *ring) { return rte_ring_count(ring); }

uint64_t shim_tsc(void) { return rte_rdtsc(); }

static shim_log_sink log_sink;

static ssize_t write_log(void *cookie, const char *bytes, size_t length) {
    (void)cookie;
    int level = rte_log_cur_msg_loglevel();
    log_sink(level < 0 ? RTE_LOG_ERR : (uint32_t)level, bytes, length);
    return (ssize_t)length;
}

int shim_log_to(shim_log_sink sink) {
    cookie_io_functions_t functions = {.write = write_log};
    FILE *stream = fopencookie(NULL, "w", functions);
    if (stream == NULL)
        return -1;
    log_sink = sink;
    return rte_openlog_stream(stream);
}
