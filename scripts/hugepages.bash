# Hugepages for as long as a script runs. Source it; call reserve_hugepages once, release_hugepages from the EXIT trap.
# shellcheck shell=bash

hugepages_file=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
hugepages_added=0

# Makes sure that so many pages of 2 MiB are free, and says how it went; without them everything runs, slower.
reserve_hugepages() {
    local wanted=$1 free before
    free=$(cat "${hugepages_file%nr_*}free_hugepages" 2>/dev/null) || free=none
    if [[ $free == none ]]; then
        echo "hugepages: this kernel has none of 2 MiB; going on without"
        return
    fi
    before=$(<"$hugepages_file")
    if ((free < wanted)); then
        echo $((before + wanted - free)) 2>/dev/null >"$hugepages_file" || true
        hugepages_added=$(($(<"$hugepages_file") - before))
        free=$(<"${hugepages_file%nr_*}free_hugepages")
    fi
    if ((free < wanted)); then
        release_hugepages
        echo "hugepages: $free of $wanted could be had; going on without"
    else
        echo "hugepages: $free of 2 MiB are free, $hugepages_added of them reserved now"
    fi
}

release_hugepages() {
    ((hugepages_added == 0)) || echo $(($(<"$hugepages_file") - hugepages_added)) >"$hugepages_file"
    hugepages_added=0
}
