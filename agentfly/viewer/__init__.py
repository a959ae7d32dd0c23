"""See a run: what the policy saw, did and got, and why it was paid.

`agentfly view RUN…` serves pages on this machine. From the ground up:

    runs/         runs on disk: their kind, parts, settings and metrics
    index/        one row for each chain in an SQLite file beside the run, read as the run grows
    opened        a run that is viewed: index, images, thumbnails
    links         the addresses in pages, on the server and in an export
    charts        line charts as SVG
    ratings       verdicts of people; rating_choice: what is rated next; agreement: with evaluators, and the export
    attempts      what the page Try runs; samples: images to begin with
    pages/        one module for each page: what it shows, and its routes
    web/          templates, style sheet, scripts
    server        the application: pages, files, security headers, errors
    export/       the same pages as one file, or as a folder

Routes of the server, SLUG being the name of a run in URLs:

    /                                     the runs; with one run, its overview
    /runs/SLUG/                           overview
    /runs/SLUG/chains?…                   table of chains (see `index.query.Filters`)
    /runs/SLUG/chains/N                   one chain; /raw is its line
    /runs/SLUG/group?task=ID              the chains of a task
    /runs/SLUG/images/PART/HANDLE.png     an image, and /runs/SLUG/thumbs/PART/HANDLE.webp
    /runs/SLUG/revision                   changes whenever the run does, for pages that show it while it grows
    /revision                             the same for the list of runs
    /compare?a=SLUG&b=SLUG                two runs on the same tasks
    /runs/SLUG/rate                       verdicts of a person
    /runs/SLUG/iterations                 runs of `agentfly generate` and of the director–generator
    /try                                  watch an agent edit an image
"""
