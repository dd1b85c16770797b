/* engine/cluster.c - what the spec says of the workers' speed, memory and links, worker by worker. */
#include "engine/spec.h"

dml_links dml_spec_links(const dml_spec *spec)
{
    const int32_t n = spec->cluster.n_links;
    if (n == 0)
        return (dml_links){
            .outer = {spec->parallelism.link_latency_ns, spec->parallelism.link_bytes_per_s}};
    return (dml_links){
        .outer = spec->cluster.link[n - 1].link, .levels = n - 1, .level = spec->cluster.link};
}

double dml_spec_speed(const dml_spec *spec, int32_t worker)
{
    return worker < spec->cluster.speed.n ? spec->cluster.speed.v[worker] : 1.0;
}

int64_t dml_spec_memory(const dml_spec *spec, int32_t worker)
{
    return worker < spec->cluster.memory.n ? spec->cluster.memory.v[worker]
                                           : spec->parallelism.memory_bytes;
}

bool dml_spec_has_limits(const dml_spec *spec)
{
    return spec->parallelism.memory_bytes > 0 || spec->cluster.memory.n > 0;
}

void dml_spec_drop_limits(dml_spec *spec)
{
    spec->parallelism.memory_bytes = 0;
    spec->cluster.memory = (dml_size_list){0};
}

double dml_spec_pace(const dml_spec *spec, int32_t worker, int64_t step)
{
    double pace = dml_spec_speed(spec, worker);
    int64_t since = -1;
    for (int32_t i = 0; i < spec->cluster.n_slow; i++) {
        const dml_slow_spec *s = &spec->cluster.slow[i];
        if (s->worker != worker || s->step > step || s->step < since) continue;
        pace = s->speed;
        since = s->step;
    }
    return pace;
}
