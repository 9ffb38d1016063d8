#!/bin/bash
# drain_on_notice.sh aws|gcp: waits until the cloud announces that this spot machine will be taken away, then tells Ray, once.
# A training then writes a checkpoint at its next step, and the server starts replicas elsewhere and hands segments back.
# AWS gives two minutes, GCP half a minute; some seconds of them have passed when the notice is read. METADATA and
# EVERY_S are for tests.
set -u

ask() { wget --quiet --tries=1 --timeout=5 --output-document=- "$@"; }

noticed_aws() {
    local url=${METADATA:-http://169.254.169.254} token
    token=$(ask --method=PUT --header="X-aws-ec2-metadata-token-ttl-seconds: 60" "$url/latest/api/token") || return 1
    ask --header="X-aws-ec2-metadata-token: $token" "$url/latest/meta-data/spot/instance-action" > /dev/null
}

noticed_gcp() {
    local url=${METADATA:-http://metadata.google.internal}
    [ "$(ask --header="Metadata-Flavor: Google" "$url/computeMetadata/v1/instance/preempted")" = TRUE ]
}

case ${1:-} in
    aws) deadline=110 ;;
    gcp) deadline=25 ;;
    *) echo "drain_on_notice.sh: say aws or gcp" >&2; exit 2 ;;
esac
until "noticed_$1"; do sleep "${EVERY_S:-5}"; done
exec ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the spot machine is taken away" \
    --deadline-remaining-seconds "$deadline"
