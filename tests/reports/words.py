"""Texts that the made-up runs of every report are filled with."""

HOSTILE = (
    "<script>document.title='owned'</script> & \"quoted\" </script><img src=x onerror=alert(1)>"
)
WORDS = (
    "I think that the person you name did work on this, though I can not say in which year the "
    "paper was published; it may be that I confuse her with someone else, so please check it"
).split()
