#!/bin/sh
# Copies passwd and group of the running qmail container to ./accounts, where the front
# door reads them. Run it once before the first start, and after each change of accounts,
# or every minute from the host's /etc/crontab:
#   * * * * * root /srv/qmail-backstop/deploy/compose/accounts.sh
# A copy that is not whole replaces nothing. Other engines: ENGINE="podman compose".
set -eu
cd "$(dirname "$0")"
mkdir -p accounts
chmod 755 accounts

for file in group passwd; do
    case $file in
        group) entry="qmail" ;;
        passwd) entry="alias" ;;
    esac
    new=accounts/.$file.new
    # shellcheck disable=SC2086 # two words
    ${ENGINE:-docker compose} exec -T qmail cat "/etc/$file" </dev/null >"$new"
    # The last line ends, and one of qmail's own accounts is there.
    if [ -n "$(tail -c 1 "$new")" ] || ! grep -q "^$entry:" "$new"; then
        echo "$0: no line $entry: in the container's /etc/$file, or it came in part" >&2
        exit 1
    fi
    chmod 644 "$new"
    if cmp -s "$new" "accounts/$file"; then
        rm "$new"
    else
        mv "$new" "accounts/$file"
    fi
done
